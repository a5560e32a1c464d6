"""The header of a safetensors file, read strictly: whatever it says is checked before a byte of data is trusted.

The format (https://github.com/huggingface/safetensors): eight bytes little-endian header length, that many bytes of
JSON ``{name: {dtype, shape, data_offsets}}``, then the tensors, which must fill the rest of the file without holes.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import ml_dtypes
import numpy as np

from linzoo.errors import CheckpointError

MAX_HEADER = 100_000_000
"""Bytes of JSON that the format allows."""

DTYPES: dict[str, np.dtype[Any]] = {
    code: np.dtype(dtype)
    for code, dtype in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "U16": "<u2",
        "I16": "<i2",
        "F16": "<f2",
        "BF16": ml_dtypes.bfloat16,
        "U32": "<u4",
        "I32": "<i4",
        "F32": "<f4",
        "U64": "<u8",
        "I64": "<i8",
        "F64": "<f8",
        "C64": "<c8",
    }.items()
}
"""The numpy dtype of each safetensors dtype code."""

_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 2**48
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer and not the weights; run 'git lfs pull'"),
    (b"<", "an HTML or XML page, probably a failed download; download it again"),
    (b"PK\x03\x04", "a zip archive, probably a torch .ckpt with a wrong name; rename it to .ckpt"),
    (b"\x80\x02", "a pickle, probably a torch .ckpt with a wrong name; rename it to .ckpt"),
    (b"GGUF", "a GGUF file, which linzoo does not read"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header declares it.

    Attributes:
        name: the name in the file.
        dtype: safetensors code, a key of :data:`DTYPES`.
        shape: its dimensions.
        start: offset of its first byte in the file.
        end: offset behind its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.start

    @property
    def elements(self) -> int:
        """How many numbers the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """All tensors of a file by name, in the order of their data, and the free-form metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


class Readable(Protocol):
    """An open file, as far as reading tensors needs it."""

    def read(self, size: int, /) -> bytes:
        """Read up to so many bytes."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a buffer as far as it goes; return how far."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move; return the offset."""


class Openable(Protocol):
    """A file that can be opened for reading: a path, or a file on the Hub. ``str`` names it in errors."""

    def open(self, mode: Literal["rb"], /) -> AbstractContextManager[Readable]:
        """Open it for reading."""


def read_header(path: Openable) -> Header:
    """Read and check the header of a safetensors file; no tensor data is read.

    Raises:
        CheckpointError: the file is no safetensors file, is truncated, or its header is malformed; the message
            names the file, the tensor where there is one, and what to do.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length, raw = _raw_header(file, size, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_header(raw, data_start=8 + length, size=size, where=str(path))


def parse_header(raw: bytes, *, data_start: int, size: int, where: str) -> Header:
    """Parse the JSON of a header and check it against the size of the file it stands in.

    Args:
        raw: the JSON.
        data_start: offset of the first byte behind the header.
        size: bytes of the whole file.
        where: how errors name the file.

    Raises:
        CheckpointError: as :func:`read_header`.
    """
    entries = _parse_json(raw, where)
    metadata = _metadata(entries.pop("__metadata__", {}), where)
    infos = [_tensor(name, entry, data_start, where) for name, entry in entries.items()]
    infos.sort(key=lambda info: (info.start, info.end))
    _check_coverage(infos, data_start, size, where)
    return Header({info.name: info for info in infos}, metadata)


def _raw_header(file: Readable, size: int, path: Openable) -> tuple[int, bytes]:
    start = file.read(32)
    if len(start) < 8:
        raise CheckpointError(
            f"{path}: only {size} bytes, too short for a safetensors file; download it again"
        )
    length = int.from_bytes(start[:8], "little")
    if length > min(MAX_HEADER, size - 8):
        for magic, what in _OTHER_FORMATS:
            if start.startswith(magic):
                raise CheckpointError(f"{path}: {what}")
        if length > MAX_HEADER:
            raise CheckpointError(
                f"{path}: its first eight bytes promise a header of {length:,} bytes, more than the"
                f" {MAX_HEADER:,} that the format allows; this is no safetensors file, or a damaged one"
            )
        raise CheckpointError(
            f"{path}: truncated inside the header ({length:,} bytes of header promised, {size - 8:,} there);"
            " download it again"
        )
    file.seek(8)
    return length, file.read(length)


def _parse_json(raw: bytes, where: str) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise CheckpointError(
                f"{where}: the header names '{_short(twice)}' twice; the file is damaged or hostile"
            )
        return found

    try:
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=no_duplicates)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: the header is not valid JSON ({_short(str(error))}); the file is damaged, download it again"
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{where}: the header is a JSON {type(entries).__name__} and not an object")
    return entries


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{where}: '__metadata__' must be an object of strings, got {type(value).__name__}"
        )
    for key, item in value.items():
        if not isinstance(item, str):
            raise CheckpointError(
                f"{where}: '__metadata__' must hold strings only, but '{_short(key)}' is {type(item).__name__};"
                " save the file again with the safetensors library"
            )
    return value


def _tensor(name: str, entry: Any, data_start: int, where: str) -> TensorInfo:
    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{where}: tensor '{_short(name)}' {what}")

    if not name.isprintable():
        raise refuse("has a name with control characters; the file is hostile or damaged")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("is not described by exactly dtype, shape and data_offsets; the file is damaged")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(
            f"has dtype {_short(repr(dtype))}, which linzoo does not know (known: {', '.join(DTYPES)})"
        )
    if not _naturals(shape) or len(shape) > _MAX_DIMENSIONS:
        raise refuse(f"has shape {_short(repr(shape))}, which is not a short list of sizes")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"has data_offsets {_short(repr(offsets))}, which are not a begin and an end")
    if math.prod(max(each, 1) for each in shape) > _MAX_ELEMENTS:
        raise refuse(
            f"claims the shape {_short(repr(shape))}, larger than any file; the header is hostile or damaged"
        )
    needed, given = math.prod(shape) * DTYPES[dtype].itemsize, offsets[1] - offsets[0]
    if needed != given:
        raise refuse(
            f"of shape {shape} and dtype {dtype} needs {needed:,} bytes, but its offsets give {given:,}"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)


def _check_coverage(infos: list[TensorInfo], data_start: int, size: int, where: str) -> None:
    """The tensors, in order, must fill the file from behind the header to its end."""
    if infos and infos[-1].end > size:
        missing = infos[-1].end - size
        raise CheckpointError(
            f"{where}: truncated: '{_short(infos[-1].name)}' ends {missing:,} bytes behind the end of the file;"
            " download it again"
        )
    reached, before = data_start, "the header"
    for info in infos:
        if info.start < reached:
            raise CheckpointError(
                f"{where}: tensor '{_short(info.name)}' overlaps {before}; the header is hostile or damaged"
            )
        if info.start > reached:
            raise CheckpointError(
                f"{where}: {info.start - reached:,} bytes between {before} and '{_short(info.name)}' belong to no"
                " tensor; the header is hostile or damaged"
            )
        reached, before = info.end, f"'{_short(info.name)}'"
    if reached < size:
        raise CheckpointError(
            f"{where}: {size - reached:,} bytes behind {before} belong to no tensor; the file is damaged or hostile"
        )


def _short(text: str) -> str:
    """What a file says, fit for a message: not long, and without terminal escapes."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 100 else f"{text[:97]}..."
