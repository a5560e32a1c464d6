"""Torch tensors in safetensors files, written one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.writer import SafetensorsWriter, TensorSpec

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
}
"""The safetensors code of each dtype."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> Digest:
    """Write tensors, as ``dtype`` where one is given; equal tensors give equal bytes.

    Raises:
        CheckpointError: see :class:`SafetensorsWriter`.
        OSError: the disk refuses.
    """
    specs = [
        TensorSpec(name, CODES[dtype or tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            writer.write(spec.name, _bytes(tensors[spec.name], dtype))
    return Digest(writer.nbytes, writer.sha256)


def _bytes(tensor: Tensor, dtype: torch.dtype | None) -> memoryview:
    plain = tensor.detach().to("cpu", dtype).contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data
