"""A safetensors file written as a stream: the header first, then one tensor at a time, hashed on the way."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from linzoo.checkpoints.atomic import fsync_folder
from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.header import DTYPES, MAX_HEADER
from linzoo.errors import CheckpointError

Data = np.ndarray | bytes | bytearray | memoryview
"""The numbers of one tensor: an array of the right dtype and shape, or its bytes."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that will be written: its name, safetensors dtype code and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def file_order(specs: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Order tensors as the safetensors library does: wide dtypes first, so that all lie aligned, then by name."""
    return sorted(specs, key=lambda spec: (-DTYPES[spec.dtype].itemsize, spec.dtype, spec.name))


def encode_header(specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> bytes:
    """Return the length field and the JSON of a file that holds ``specs`` in this order.

    Raises:
        CheckpointError: a name is there twice, or the header is longer than the format allows.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for spec in specs:
        if spec.name in entries or spec.name == "__metadata__":
            raise CheckpointError(f"tensor name '{spec.name}' cannot be written: it is taken")
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"a header of {len(text):,} bytes is longer than the safetensors format allows")
    return len(text).to_bytes(8, "little") + text


class SafetensorsWriter:
    """Writes a safetensors file tensor by tensor; the file has its name only when it is whole.

    Use as a context manager, and write every tensor of :attr:`order` in that order::

        with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
            for spec in writer.order:
                writer.write(spec.name, make(spec))
        writer.sha256

    The bytes depend on nothing but the tensors and the metadata.

    Args:
        path: where the file will be; an existing one is replaced at the end.
        specs: the tensors.
        metadata: free-form strings for the header.

    Raises:
        CheckpointError: the header cannot be (see :func:`encode_header`), or not all tensors were written.
        OSError: the disk refuses.
    """

    def __init__(self, path: Path, specs: Iterable[TensorSpec], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.order = tuple(file_order(specs))
        self.sha256 = ""
        self.nbytes = 0
        self._header = encode_header(self.order, metadata)
        self._hash = hashlib.sha256()
        self._part = path.with_name(f".{path.name}.part")
        self._written = 0
        self._file: BinaryIO

    def __enter__(self) -> SafetensorsWriter:
        self._file = self._part.open("wb")
        try:
            self._put(self._header)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, data: Data) -> None:
        """Append the tensor whose turn it is.

        Raises:
            CheckpointError: it is another tensor's turn, or ``data`` has another dtype or size than announced.
        """
        spec = self.order[self._written] if self._written < len(self.order) else None
        if spec is None or spec.name != name:
            due = f"the next one is '{spec.name}'" if spec else "all are written"
            raise CheckpointError(f"tensor '{name}' cannot be written now: {due}")
        if isinstance(data, np.ndarray):
            if data.dtype != DTYPES[spec.dtype] or data.shape != spec.shape:
                raise CheckpointError(
                    f"tensor '{name}' was announced as {spec.dtype} {spec.shape}, got {data.dtype} {data.shape}"
                )
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        if len(data) != spec.nbytes:
            raise CheckpointError(f"tensor '{name}' needs {spec.nbytes:,} bytes, got {len(data):,}")
        self._put(data)
        self._written += 1

    def _put(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.nbytes += len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _discard(self) -> None:
        with suppress(OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._written < len(self.order):
            missing = ", ".join(spec.name for spec in self.order[self._written :][:3])
            raise CheckpointError(f"{self.path.name} is not whole: {missing} … were not written")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.sha256 = self._hash.hexdigest()
        self._part.replace(self.path)
        fsync_folder(self.path.parent)


def write_file(path: Path, content: bytes) -> Digest:
    """Write a small file and wait until the disk has it.

    Raises:
        OSError: the disk refuses.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Digest(len(content), hashlib.sha256(content).hexdigest())
