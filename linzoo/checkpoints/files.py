"""Tensors in one or several safetensors files, read one at a time into plain memory (no mmap, no cache)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from linzoo.checkpoints.digest import Digest, Stamp, stamp_of
from linzoo.checkpoints.header import Header, Openable, TensorInfo, read_header
from linzoo.errors import CheckpointError

F = TypeVar("F", bound=Openable)


class TensorStore:
    """Named tensors that lie in files: what :class:`linzoo.checkpoints.source.Checkpoint` reads from.

    Attributes:
        stamps: the files on this machine that hold the tensors, as they were when they were opened.
        stated: the files that are elsewhere, by the place that they would have here, as they are said to be.
        tensors: all tensors, by their own names.
        metadata: what the files say about themselves.
    """

    stamps: Mapping[Path, Stamp]
    stated: Mapping[Path, Digest] = MappingProxyType({})
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    def read_bytes(self, name: str) -> memoryview:
        """Return the bytes of one tensor, little-endian and contiguous."""
        raise NotImplementedError

    def to_fetch(self, names: Iterable[str]) -> int:  # noqa: ARG002 -- everything is here
        """Bytes that :meth:`fetch` would bring."""
        return 0

    def fetch(self, names: Iterable[str], advance: Callable[[int], None]) -> None:
        """Bring tensors to this machine before they are read; ``advance`` is told of the bytes."""

    def forget(self) -> None:
        """Remove what was fetched."""


class SafetensorsFiles(TensorStore):
    """The tensors of one safetensors file, or of all shards of a model.

    Args:
        files: the files (paths, or files on the Hub), with the names that each must hold, or None for whatever it
            holds.

    Raises:
        CheckpointError: a header is malformed, or a file does not hold what it should.
    """

    def __init__(self, files: Mapping[F, frozenset[str] | None]) -> None:
        self.stamps: dict[Path, Stamp] = {path: stamp_of(path) for path in files if isinstance(path, Path)}
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}
        self._file_of: dict[str, Openable] = {}
        for path, expected in files.items():
            header = read_header(path)
            if expected is not None:
                _check_shard(path, header, expected)
            self.tensors |= header.tensors
            self.metadata |= header.metadata
            self._file_of |= dict.fromkeys(header.tensors, path)

    def read_bytes(self, name: str) -> memoryview:
        """Return the bytes of one tensor.

        Raises:
            CheckpointError: the file has become unreadable or shorter since its header was read.
        """
        info, path = self.tensors[name], self._file_of[name]
        buffer = memoryview(bytearray(info.nbytes))
        filled = 0
        try:
            with path.open("rb") as file:
                file.seek(info.start)
                while filled < info.nbytes and (count := file.readinto(buffer[filled:])):
                    filled += count
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
        if filled < info.nbytes:
            raise CheckpointError(f"{path}: ended while '{name}' was read; the file has changed, start again")
        return buffer


def _check_shard(path: Openable, header: Header, expected: frozenset[str]) -> None:
    missing, extra = sorted(expected - set(header.tensors)), sorted(set(header.tensors) - expected)
    if missing:
        raise CheckpointError(
            f"{path}: the index says that {missing[0]!r} is in this shard, but it is not"
            f" ({len(missing)} tensors missing); download the index and all shards again"
        )
    if extra:
        raise CheckpointError(
            f"{path}: holds '{extra[0]}', which the index does not place in this shard"
            f" ({len(extra)} such tensors); download the index and all shards again"
        )
