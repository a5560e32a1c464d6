"""Prompts only: a text file with one prompt a line; the teacher draws the latents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from linzoo.distillation.data.items import Item, fingerprint
from linzoo.distillation.errors import DataError


class Prompts:
    """The distinct prompts of a file, without blank lines; each stands for ``per_prompt`` items.

    Where there are more than ``most``, those with the smallest hashes are taken: no matter how the file is sorted,
    they are a fair sample. A prompt comes a second time only when all have come once.

    Raises:
        DataError: the file cannot be read or holds no prompt.
    """

    def __init__(self, path: Path, most: int | None = None, per_prompt: int = 1) -> None:
        if path.is_dir():
            raise DataError(
                f"{path}: is a folder, and data.source of kind prompts is a text file; for pictures set data.kind to folder"
            )
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read as UTF-8 text with one prompt a line: {error}"
            ) from error
        prompts = [line.strip() for line in lines if line.strip()]
        distinct = list(dict.fromkeys(prompts))
        if not distinct:
            raise DataError(f"{path}: holds no prompt; write one a line")
        self.notes: tuple[str, ...] = ()
        if len(distinct) < len(prompts):
            self.notes = (f"{path}: {len(prompts) - len(distinct)} repeated lines are left out",)
        ordered = sorted(distinct, key=fingerprint)
        self._items = [(prompt, number) for number in range(per_prompt) for prompt in ordered][:most]
        self.count: int | None = len(self._items)
        self.stamp = fingerprint("prompts", self._items)

    def items(self, rank: int, world: int) -> Iterator[tuple[int, Item]]:
        """See :class:`linzoo.distillation.data.items.Source`."""
        for position, (prompt, number) in islice(enumerate(self._items), rank, None, world):
            yield position, Item(prompt, prompt, number=number)
