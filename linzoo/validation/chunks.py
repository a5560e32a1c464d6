"""Tensors of many items on disk, a chunk of items a file: what is there need not be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from linzoo.checkpoints.atomic import write_bytes
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress

CHUNK = 16
"""Items a file. It does not depend on how many are computed at once, so that a run may go on with another batch."""


class Chunks:
    """Items in files of :data:`CHUNK` each; a file is there whole or not at all, so that no item ever counts twice.

    Args:
        folder: where the files are.
        count: how many items there are.
        names: the tensors that each file holds, a row an item.
    """

    def __init__(self, folder: Path, count: int, names: Sequence[str]) -> None:
        self._folder = folder
        self._count = count
        self._names = tuple(names)

    def all(self) -> list[range]:
        """The items of each file."""
        return [range(start, min(start + CHUNK, self._count)) for start in range(0, self._count, CHUNK)]

    def has(self, items: range) -> bool:
        """Whether the file of some items is there, and whole."""
        try:
            with safe_open(self._path(items), "pt") as file:
                there = set(file.keys())
                return all(
                    name in there and file.get_slice(name).get_shape()[0] == len(items)
                    for name in self._names
                )
        except (OSError, SafetensorError):
            return False

    def fill(
        self,
        make: Callable[[range], Mapping[str, Tensor]],
        title: str,
        progress: Progress,
        processes: Processes | None = None,
        also: Callable[[range], bool] = lambda items: True,
    ) -> None:
        """Make what is missing.

        Args:
            make: the tensors of some items.
            title: what people are told that it is.
            progress: who is told.
            processes: share the work; all must call this. None does it alone.
            also: what else must hold of items that are not to be made again.

        Raises:
            CheckpointError: see :meth:`write`.
        """

        def look() -> list[range]:
            return [items for items in self.all() if not (self.has(items) and also(items))]

        # One process looks, for all: they would not share the work if a slow file system showed them different things.
        missing = look() if processes is None else processes.in_main(look)
        mine = missing if processes is None else missing[processes.rank :: processes.count]
        done = self._count - sum(map(len, missing))
        with progress.task(title, done + sum(map(len, mine)), done) as told:
            for items in mine:
                self.write(items, make(items))
                told(len(items), {})
        if processes is not None:
            processes.wait()

    def load(self, items: range) -> dict[str, Tensor]:
        """The tensors of some items.

        Raises:
            KeyError: the file is not there.
        """
        loaded = self._load(items)
        if loaded is None:
            raise KeyError(f"{self._path(items)} is missing")
        return loaded

    def write(self, items: range, tensors: Mapping[str, Tensor]) -> None:
        """Write the file of some items.

        Raises:
            CheckpointError: the place cannot be written or the disk is full.
        """
        rows = {name: tensors[name].detach().cpu().contiguous() for name in self._names}
        write_bytes(self._path(items), save(rows))

    def read(self, name: str, most: int | None = None) -> Tensor:
        """A tensor of all items, or of the first ``most``, one after the other.

        Raises:
            KeyError: a file that it takes is not there.
        """
        wanted = self.all()[: None if most is None else -(-most // CHUNK)]
        return torch.cat([self.load(items)[name] for items in wanted])[:most]

    def _path(self, items: range) -> Path:
        return self._folder / f"items-{items.start:06d}.safetensors"

    def _load(self, items: range) -> dict[str, Tensor] | None:
        try:
            loaded = load_file(self._path(items))
        except (OSError, SafetensorError):
            return None
        whole = all(name in loaded and len(loaded[name]) == len(items) for name in self._names)
        return loaded if whole else None
