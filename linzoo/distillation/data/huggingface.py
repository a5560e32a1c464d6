"""Data sets that Hugging Face's ``datasets`` reads: from the Hub, or local Parquet, Arrow and picture folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from linzoo.distillation.data.items import (
    Item,
    Unusable,
    file_stamp,
    fingerprint,
    missing_extra,
    read_file,
    unusable,
)
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Data


class HuggingFace:
    """The rows of a data set, with the files of its pictures as they are.

    With ``streaming`` nothing is downloaded ahead, how many rows there are is not known, and every process reads all
    rows and uses its share.

    Args:
        data: of the recipe: name or folder, split, columns, streaming.
        most: take so many rows, from the first.

    Raises:
        DataError: ``datasets`` is not installed, cannot load the data set, or a column does not exist.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, data: Data, most: int | None = None) -> None:
        try:
            import datasets
        except ImportError as error:
            raise missing_extra("datasets", data.kind, error) from error
        self._data = data
        self._most = most
        with _explain(data):
            source = os.path.expanduser(data.source)  # noqa: PTH111 (a Path would spoil URLs)
            rows = datasets.load_dataset(source, split=data.split, streaming=data.streaming)
            columns = list(rows.column_names or next(iter(rows), {}))
        _require_columns(data, columns)
        with _explain(data):
            rows = rows.select_columns([data.image_column, data.caption_column])
            if rows.features is not None and isinstance(rows.features[data.image_column], datasets.Image):
                rows = rows.cast_column(data.image_column, datasets.Image(decode=False))
        self._rows: Any = rows
        self.count: int | None = None
        if not data.streaming:
            self.count = len(rows) if most is None else min(most, len(rows))
        named = data.source, data.split, data.image_column, data.caption_column, data.streaming
        self.stamp = fingerprint("huggingface", named, most, self._files())

    def items(self, rank: int, world: int) -> Iterator[tuple[int, Item]]:
        """See :class:`linzoo.distillation.data.items.Source`."""
        with _explain(self._data):
            if self.count is None:
                for position, row in islice(enumerate(self._rows), rank, self._most, world):
                    yield position, self._item(position, row)
            else:
                for position in range(rank, self.count, world):
                    yield position, self._item(position, self._rows[position])

    def _item(self, position: int, row: dict[str, Any]) -> Item:
        name = f"{self._data.source}[{position}]"
        image, caption = row[self._data.image_column], row[self._data.caption_column]
        if not isinstance(caption, str):
            kind = type(caption).__name__
            return unusable(name, f"its column {self._data.caption_column!r} holds no text but {kind}")
        return Item(name, caption.strip(), partial(_content, image))

    def _files(self) -> list[Any]:
        """What tells one state of the data from another; a stream's is known by name alone."""
        if self.count is None:
            return []
        return [file_stamp(Path(each["filename"])) for each in self._rows.cache_files] or [self.count]


def _content(image: Any) -> bytes:
    """The bytes of a picture's file, from what ``datasets.Image(decode=False)`` gives, or bytes as they are."""
    if isinstance(image, bytes):
        return image
    if not isinstance(image, dict):
        raise Unusable(f"its picture is {type(image).__name__}, not the bytes of a file")
    if image.get("bytes"):
        return bytes(image["bytes"])
    path = image.get("path")
    if not path:
        raise Unusable("has no picture")
    return _remote(path) if "://" in path else read_file(Path(path))


def _remote(url: str) -> bytes:
    import fsspec  # type: ignore[import-untyped]

    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except OSError as error:
        raise Unusable(f"cannot be read: {error}") from error


def _require_columns(data: Data, columns: list[str]) -> None:
    for field in ("image_column", "caption_column"):
        if getattr(data, field) not in columns:
            raise DataError(
                f"{data.source}: has no column {getattr(data, field)!r}; its columns are "
                f"{', '.join(map(repr, columns))}: set data.{field} to one of them"
            )


@contextmanager
def _explain(data: Data) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of any of the libraries that read formats and places for datasets
        raise DataError(f"{data.source}: datasets cannot read split {data.split!r} of it: {error}") from error
