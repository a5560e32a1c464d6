"""The base hash: which weights a UNet has, told from a few of its tensors, in whatever float precision they are.

What a fine-tune changes shows in any large tensor, and what a merged LoRA changes in the attention's; float32 weights round to
the same float16 numbers wherever they are rounded. So the hash of a few attention matrices in float16 tells models of one
structure apart, and is had from a file by reading some megabytes of it, and from a pipeline in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from linzoo.checkpoints.unet import UNetTensors

_SCHEME = b"linzoo base hash 1\n"
_DIGITS = 16
_FLOATS = ("F64", "F32", "F16", "BF16")
_QUERIES = ".attn1.to_q.weight"
_KEYS = ".attn2.to_k.weight"


def base_hash(unet: UNetTensors) -> str | None:
    """Hash a UNet on disk or on the Hub; None where its weights are quantised.

    bfloat16 has fewer digits than float16: such a file has the hash of its own numbers, not that of a float16 or float32
    file which it was rounded from.

    Raises:
        CheckpointError: the file cannot be read.
    """
    names = hashed_names(unet.tensors)
    if any(unet.tensors[name].dtype not in _FLOATS for name in names):
        return None
    return hash_arrays((name, unet.read(name)) for name in names)


def hashed_names(names: Iterable[str]) -> list[str]:
    """Of a UNet's tensors, by diffusers name, those that are hashed, in the order of hashing.

    The first convolution, and of the first, middle and last transformer block the queries of the self-attention and the
    keys of the cross-attention: adapters are trained on one of the two if not on both, and merges by block keep one end.
    """
    there = set(names)
    queries = sorted((name for name in there if name.endswith(_QUERIES)), key=_natural)
    picked = ["conv_in.weight"]
    for name in dict.fromkeys(queries[place] for place in _ends_and_middle(len(queries))):
        picked += [name, name.removesuffix(_QUERIES) + _KEYS]
    return [name for name in picked if name in there]


def hash_arrays(arrays: Iterable[tuple[str, np.ndarray]]) -> str:
    """Hash tensors with their names and shapes, rounded to float16: 16 hexadecimal digits."""
    hasher = hashlib.sha256(_SCHEME)
    for name, array in arrays:
        hasher.update(f"{name} {'x'.join(map(str, array.shape))}\n".encode())
        with np.errstate(over="ignore", under="ignore"):
            hasher.update(array.astype("<f2").tobytes())
    return hasher.hexdigest()[:_DIGITS]


def _ends_and_middle(count: int) -> tuple[int, ...]:
    return (0, count // 2, count - 1) if count else ()


def _natural(name: str) -> str:
    """Block 10 behind block 9; also down, mid and up blocks follow one another by name."""
    return re.sub(r"\d+", lambda number: number[0].zfill(4), name)
