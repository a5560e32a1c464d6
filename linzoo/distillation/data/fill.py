"""Filling the caches: each process makes what is missing of its share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from linzoo.checkpoints.atomic import require_space
from linzoo.distillation.batch import Conditioning
from linzoo.distillation.data.cache import Cache, Record, Writer, halved
from linzoo.distillation.data.encode import encode_captions, encode_unconditional
from linzoo.distillation.data.items import Item, Progress, Source, Unusable, fingerprint
from linzoo.distillation.data.maker import Maker, View, at_once
from linzoo.distillation.data.manifest import Part, Row
from linzoo.distillation.errors import DataError

UNCONDITIONAL = "unconditional"
_CAPTIONS_AT_ONCE = 16
_BAD_ALLOWED = 10
_BAD_SHARE = 0.01
_NAMED = 5


class LatentFill:
    """One process's share of the latents of a source.

    Args:
        source: of the items.
        maker: makes their latents.
        cache: where those go; what it has already is not made again.
        progress: told how many items are made after every item that is taken.
    """

    def __init__(self, source: Source, maker: Maker, cache: Cache, progress: Progress) -> None:
        self._source = source
        self._maker = maker
        self._cache = cache
        self._progress = progress
        self._waiting: dict[Hashable, list[View]] = defaultdict(list)
        self._views_each = 1
        self._bad: list[str] = []

    def run(self, rank: int, world: int) -> Part:
        """Make what is missing and return this process's part of the manifest.

        Items that cannot be used are left out and told of in a note, as long as they are few.

        Raises:
            DataError: more than ten items, and more than one in a hundred, cannot be used.
            CheckpointError: the disk is full or cannot be written to.
        """
        require_space(self._cache.folder, self._maker.bytes_missing(self._source, self._cache))
        rows: dict[int, Row] = {}
        known: set[str] = set()
        share = None if self._source.count is None else len(range(rank, self._source.count, world))
        taken, name = 0, ""
        with self._cache.writer() as writer:
            for taken, (position, item) in enumerate(self._source.items(rank, world), 1):
                name = item.name
                try:
                    rows[position] = self._take(item, known, writer)
                except Unusable as error:
                    self._leave_out(f"{name}: {error}", taken)
                self._progress(taken - self._items_waiting(), share, name)
            while self._waiting:
                self._make(self._waiting.popitem()[1], writer)
                self._progress(taken - self._items_waiting(), share, name)
        return Part(rows, self._note())

    def _take(self, item: Item, known: set[str], writer: Writer) -> Row:
        _require_text(item.caption)
        content, views = self._maker.views(item)
        self._views_each = len(views)
        missing = {view.key: view for view in views if view.key not in self._cache and view.key not in known}
        for view in [self._maker.ready(view) for view in missing.values()]:
            known.add(view.key)
            waiting = self._waiting[view.kind]
            waiting.append(view)
            if len(waiting) >= at_once(view.size):
                self._make(self._waiting.pop(view.kind), writer)
        return Row(content, item.caption, tuple((view.base, view.key) for view in views))

    def _items_waiting(self) -> int:
        """How many items are taken and not made yet, as if those that wait waited with all their views."""
        return math.ceil(sum(map(len, self._waiting.values())) / self._views_each)

    def _make(self, views: Sequence[View], writer: Writer) -> None:
        try:
            records = self._maker.make(views)
        except torch.OutOfMemoryError as error:
            if len(views) == 1:
                width, height = views[0].size
                raise DataError(
                    f"{views[0].name}: there is not enough memory to make latents of {width}x{height}; choose a "
                    f"smaller size, or encode on a larger device, whose cache serves here too ({error})"
                ) from error
            records = None
        if records is None:
            half = len(views) // 2
            self._make(views[:half], writer)
            self._make(views[half:], writer)
            return
        for record in records:
            writer.add(record)

    def _leave_out(self, what: str, seen: int) -> None:
        self._bad.append(what)
        if len(self._bad) > max(_BAD_ALLOWED, _BAD_SHARE * seen):
            raise DataError(
                f"{len(self._bad)} of the first {seen} items cannot be used; put them right or take them away:\n  "
                + "\n  ".join(self._bad[:_BAD_ALLOWED])
            )

    def _note(self) -> tuple[str, ...]:
        if not self._bad:
            return ()
        more = ", …" if len(self._bad) > _NAMED else ""
        return (
            f"{len(self._bad)} items cannot be used and are left out: {', '.join(self._bad[:_NAMED])}{more}",
        )


def _require_text(caption: str) -> None:
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise Unusable(f"its caption is not text: {error}") from error


def caption_key(caption: str) -> str:
    """Where the cache keeps what a caption was encoded as."""
    return fingerprint("caption", caption)


def fill_texts(
    pipe: Any,
    captions: Sequence[str],
    cache: Cache,
    device: torch.device | str,
    progress: Progress,
    rank: int,
    world: int,
) -> None:
    """Encode this process's share of the captions that the cache lacks, each once, and the unconditional.

    Raises:
        CheckpointError: the disk is full or cannot be written to.
    """
    missing = [caption for caption in dict.fromkeys(captions) if caption_key(caption) not in cache]
    if not missing and UNCONDITIONAL in cache:
        return
    empty = _record(UNCONDITIONAL, encode_unconditional(pipe, device), 0, {})
    require_space(cache.folder, len(missing) * sum(tensor.nbytes for tensor in empty.tensors.values()))
    with cache.writer() as writer:
        if rank == 0 and UNCONDITIONAL not in cache:
            writer.add(empty)
        share = missing[rank::world]
        for start in range(0, len(share), _CAPTIONS_AT_ONCE):
            some = share[start : start + _CAPTIONS_AT_ONCE]
            encoded = encode_captions(pipe, some, device)
            for row, caption in enumerate(some):
                writer.add(_record(caption_key(caption), encoded, row, {"caption": caption}))
            progress(start + len(some), len(share), some[-1])


def _record(key: str, encoded: Conditioning, row: int, info: dict[str, Any]) -> Record:
    tensors = {"text": halved(encoded.text[row])}
    if encoded.pooled is not None:
        tensors["pooled"] = halved(encoded.pooled[row])
    return Record(key, tensors, info)
