"""Prompts only: a text file with one prompt a line; the teacher draws the latents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from linzoo.distillation.data.items import Item, fingerprint
from linzoo.distillation.errors import DataError


class Prompts:
    """The distinct prompts of a file, without blank lines.

    Where there are more than ``most``, those with the smallest hashes are taken: no matter how the file is sorted,
    they are a fair sample.

    Raises:
        DataError: the file cannot be read or holds no prompt.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
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
        self._prompts = sorted(distinct, key=fingerprint)[:most]
        self.count: int | None = len(self._prompts)
        self.stamp = fingerprint("prompts", self._prompts)

    def items(self, rank: int, world: int) -> Iterator[tuple[int, Item]]:
        """See :class:`linzoo.distillation.data.items.Source`."""
        for position, prompt in islice(enumerate(self._prompts), rank, None, world):
            yield position, Item(prompt, prompt)
