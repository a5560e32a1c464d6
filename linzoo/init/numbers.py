"""Reading, checking and casting the numbers of a tensor."""

from __future__ import annotations

import numpy as np

from linzoo.checkpoints.header import DTYPES
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError

CODES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
"""The dtypes that a conversion can write, by the name that users give."""

FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
"""Safetensors codes of the dtypes that weights are copied in."""

_NAMES = {code: name for name, code in CODES.items()} | {"F64": "float64"}
_EXPONENT = {"F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80), "F32": (np.uint32, 0x7F800000)}


def read_finite(checkpoint: Checkpoint, name: str, dtype: str | None = None) -> np.ndarray:
    """Read a tensor, check that it holds neither NaN nor infinity, and cast it.

    Args:
        checkpoint: where it lies.
        name: the file's own name of it.
        dtype: safetensors code of the result; None for the tensor's own, bit for bit.

    Raises:
        CheckpointError: it holds a value that is not finite, or one that does not fit into ``dtype``.
    """
    array = checkpoint.read(name)
    if bad := count_not_finite(array, checkpoint.tensors[name].dtype):
        raise CheckpointError(
            f"{checkpoint.spec}: tensor '{name}' holds {bad:,} values that are NaN or infinite: the checkpoint is"
            " damaged (a failed merge or training run); get another copy of it"
        )
    return array if dtype is None else cast(array, dtype, name)


def cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Round an array to the dtype of this code, once.

    Raises:
        CheckpointError: a value does not fit.
    """
    if array.dtype == DTYPES[dtype]:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(DTYPES[dtype])
    if count_not_finite(result, dtype):
        raise CheckpointError(
            f"tensor '{name}' reaches {np.abs(array.astype(np.float32)).max():.4g}, which does not fit into"
            f" {dtype_name(dtype)}; use --dtype bfloat16 or float32"
        )
    return result


def count_not_finite(array: np.ndarray, dtype: str) -> int:
    """How many values are NaN or infinite; by their exponent bits where numpy has no fast way."""
    if dtype not in _EXPONENT:
        return int(np.count_nonzero(~np.isfinite(array.astype(np.float64))))
    integer, mask = _EXPONENT[dtype]
    bits = np.ascontiguousarray(array).reshape(-1).view(integer)
    return int(np.count_nonzero((bits & integer(mask)) == mask))


def dtype_name(code: str) -> str:
    """The common name of a safetensors dtype code: ``float16`` for ``F16``."""
    return _NAMES.get(code, code)
