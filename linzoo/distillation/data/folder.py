"""A folder of pictures with captions: a text file beside each, or metadata files as Hugging Face's imagefolder reads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from linzoo.distillation.data.items import Item, file_stamp, fingerprint, read_file
from linzoo.distillation.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
"""Suffixes of files that are taken for pictures."""
_FILE = "file_name"
_NAMED = 5


class ImageFolder:
    """The pictures of a folder and the folders in it.

    A caption is the text of ``NAME.txt`` beside ``NAME.png``, or ``column`` of the row whose ``file_name`` is the
    picture's, in a ``metadata.jsonl`` or ``metadata.csv`` of its folder or of one above. Where there are both, the
    text file counts. Hidden files and folders, whose names begin with a dot, are not looked at.

    Args:
        folder: where the pictures are.
        column: of the metadata files.
        most: take those with the smallest hashes of their names, a fair sample, where there are more.

    Raises:
        DataError: there is no such folder, no picture in it, no such column, or a picture has no caption.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path, column: str, most: int | None = None) -> None:
        if not folder.is_dir():
            raise DataError(
                f"{folder}: is no folder; with kind folder data.source names a folder of pictures with captions"
            )
        files = [path for path in sorted(folder.rglob("*")) if not _is_hidden(path.relative_to(folder))]
        pictures = [path for path in files if path.suffix.lower() in IMAGES]
        if not pictures:
            raise DataError(f"{folder}: holds no picture ({', '.join(IMAGES)})")
        captions = _captions(files, pictures, column)
        missing = [str(path.relative_to(folder)) for path in pictures if path not in captions]
        if missing:
            more = ", …" if len(missing) > _NAMED else ""
            raise DataError(
                f"{folder}: {len(missing)} of {len(pictures)} pictures have no caption: {', '.join(missing[:_NAMED])}"
                f"{more}; write it to a file of the same name that ends in .txt, or list all of them in metadata.jsonl"
            )
        self._items = [(path, path.relative_to(folder).as_posix(), captions[path]) for path in pictures]
        if most is not None and most < len(self._items):
            self._items = sorted(self._items, key=lambda item: fingerprint(item[1]))[:most]
        self.count: int | None = len(self._items)
        stamps = [(caption, *_stamp(path)) for path, _, caption in self._items]
        self.stamp = fingerprint("folder", stamps)

    def items(self, rank: int, world: int) -> Iterator[tuple[int, Item]]:
        """See :class:`linzoo.distillation.data.items.Source`."""
        for position, (path, name, caption) in islice(enumerate(self._items), rank, None, world):
            yield position, Item(name, caption, partial(read_file, path))


def _is_hidden(path: Path) -> bool:
    """Whether a name begins with a dot: what file managers and archives leave beside pictures, ``._a.png``."""
    return any(part.startswith(".") for part in path.parts)


def _stamp(path: Path) -> tuple[str, int, int]:
    """The stamp of a picture; one that cannot be read is left out later, and named."""
    try:
        return file_stamp(path)
    except OSError:
        return str(path), 0, 0


def _captions(files: Sequence[Path], pictures: Sequence[Path], column: str) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for table in files:
        if table.name in ("metadata.jsonl", "metadata.csv"):
            found |= _listed(table, column)
    texts = {path for path in files if path.suffix == ".txt"}
    for picture in pictures:
        text = picture.with_suffix(".txt")
        if text in texts:
            found[picture] = _text(text).strip()
    return found


def _listed(table: Path, column: str) -> dict[Path, str]:
    captions = {}
    for number, row in _rows(table):
        absent = [name for name in (_FILE, column) if not isinstance(row.get(name), str)]
        if absent:
            raise DataError(
                f"{table}, row {number}: has no text in column {absent[0]!r}; its columns are "
                f"{', '.join(map(repr, row))} (data.caption_column names the captions')"
            )
        captions[table.parent / row[_FILE]] = row[column].strip()
    gone = [str(path) for path in captions if not path.is_file()]
    if gone:
        raise DataError(f"{table}: lists {len(gone)} files that are not there: {', '.join(gone[:_NAMED])}")
    return captions


def _rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = _text(table)
    if table.suffix == ".csv":
        try:
            yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 1)
        except csv.Error as error:
            raise DataError(f"{table}: is not CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a caption may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{table}, line {number}: is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{table}, line {number}: is not a JSON object like {{'file_name': …}}")
        yield number, row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
