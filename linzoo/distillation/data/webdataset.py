"""Tar files of pictures and captions, as webdataset reads them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from linzoo.distillation.data.folder import IMAGES
from linzoo.distillation.data.items import Item, file_stamp, fingerprint, missing_extra, unusable
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Data


class WebDataset:
    """The samples of tar files.

    A sample's picture is the part that ``image_column`` names, or the first whose suffix is that of a picture; its
    caption is the part that ``caption_column`` names, or ``txt``, or that field of ``json``. Every process reads all
    files and uses its share.

    Args:
        data: of the recipe; the source is a path or URL with ``{000..123}`` for several, or a local pattern with
            ``*``.
        most: take so many samples, from the first.

    Raises:
        DataError: ``webdataset`` is not installed, or a file is not there.
    """

    count: int | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, data: Data, most: int | None = None) -> None:
        try:
            from webdataset.shardlists import expand_urls
        except ImportError as error:
            raise missing_extra("webdataset", data.kind, error) from error
        self._data = data
        self._most = most
        self._files = [each for url in expand_urls(data.source) for each in _matches(url)]
        if not self._files:
            raise DataError(f"{data.source}: no file matches; data.source names tar files")
        try:
            stamps = [file if _is_remote(file) else file_stamp(Path(file)) for file in self._files]
        except OSError as error:
            raise DataError(
                f"{error.filename}: cannot be read: {error.strerror}; data.source names it"
            ) from error
        self.stamp = fingerprint("webdataset", stamps, data.image_column, data.caption_column, most)

    def items(self, rank: int, world: int) -> Iterator[tuple[int, Item]]:
        """See :class:`linzoo.distillation.data.items.Source`."""
        for position, sample in islice(enumerate(_samples(self._files)), rank, self._most, world):
            yield position, self._item(sample)

    def _item(self, sample: Mapping[str, Any]) -> Item:
        name = f"{sample['__url__']}:{sample['__key__']}"
        parts = [part for part in sample if not part.startswith("__")]
        suffixes = [part for part in parts if f".{part}".endswith(IMAGES)]
        picture = self._data.image_column if self._data.image_column in parts else next(iter(suffixes), None)
        caption = _caption(sample, self._data.caption_column)
        if picture is None or caption is None:
            lacks = "picture" if picture is None else "caption"
            return unusable(name, f"has no {lacks} among its parts {', '.join(parts)}")
        return Item(name, caption.strip(), partial(bytes, sample[picture]))


def _samples(files: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The samples of all files. Opens them here, since ``webdataset.WebDataset`` leaves closing to chance."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for url in files:
        try:
            with gopen(url) as stream:
                yield from group_by_keys(tar_file_expander([{"url": url, "stream": stream}]))
        except (OSError, ValueError, tarfile.TarError) as error:
            # webdataset adds the stream, and its address in memory, to what an error says
            why = str(error if isinstance(error, OSError) else error.args[0]).split(" @ ")[0]
            raise DataError(f"{url}: webdataset cannot read it: {why}") from error


def _caption(sample: Mapping[str, Any], column: str) -> str | None:
    try:
        for part in (column, "txt"):
            if part in sample:
                return str(sample[part], "utf-8")
        fields = json.loads(sample["json"]) if "json" in sample else {}
    except ValueError:
        return None
    caption = fields.get(column) if isinstance(fields, dict) else None
    return caption if isinstance(caption, str) else None


def _matches(url: str) -> list[str]:
    if _is_remote(url):
        return [url]
    pattern = Path(url).expanduser()
    if "*" not in url:
        return [str(pattern)]
    return sorted(map(str, Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor)))))


def _is_remote(url: str) -> bool:
    return "://" in url or url.startswith("pipe:")
