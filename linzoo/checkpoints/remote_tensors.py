"""Tensors of a model that stays on the Hub: headers are read at once, tensors when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.files import SafetensorsFiles
from linzoo.checkpoints.ranges import ByteRange
from linzoo.checkpoints.remote import HubFile, fetch


class RemoteTensors(SafetensorsFiles):
    """The tensors of safetensors files of which some, or all, are on the Hub.

    A tensor that is read without having been fetched is asked for there and then, and again the next time.

    Args:
        files: as for :class:`SafetensorsFiles`.

    Raises:
        CheckpointError: as :class:`SafetensorsFiles`, or a file cannot be had.
    """

    def __init__(self, files: Mapping[HubFile | Path, frozenset[str] | None]) -> None:
        super().__init__(files)
        self._remote = [file for file in files if isinstance(file, HubFile)]
        self.stated = {file.place: Digest(file.size, file.sha256) for file in self._remote}

    def to_fetch(self, names: Iterable[str]) -> int:
        """Bytes of the named tensors that are not on this machine yet."""
        return sum(len(each) for ranges in self._missing(names).values() for each in ranges)

    def fetch(self, names: Iterable[str], advance: Callable[[int], None]) -> None:
        """Bring the named tensors to this machine, where they stay until :meth:`forget`.

        Raises:
            CheckpointError: see :func:`linzoo.checkpoints.remote.fetch`.
        """
        fetch(self._missing(names), advance)

    def forget(self) -> None:
        """Remove what was fetched."""
        for file in self._remote:
            file.kept.clear()

    def _missing(self, names: Iterable[str]) -> dict[HubFile, list[ByteRange]]:
        wanted: dict[HubFile, list[ByteRange]] = {file: [] for file in self._remote}
        for name in dict.fromkeys(names):
            file = self._file_of[name]
            if isinstance(file, HubFile) and not file.fetched:
                info = self.tensors[name]
                wanted[file].append(ByteRange(info.start, info.end))
        return {file: file.kept.missing(ranges) for file, ranges in wanted.items()}
