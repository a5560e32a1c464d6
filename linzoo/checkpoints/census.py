"""What a checkpoint holds, part by part, and what is odd about it; from headers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from linzoo.checkpoints.header import TensorInfo
from linzoo.checkpoints.layout import unet_names
from linzoo.checkpoints.source import Checkpoint

_PARTS = {
    "model_ema.": "unet_ema",
    "first_stage_model.": "vae",
    "vae.": "vae",
    "cond_stage_model.": "text_encoder",
    "conditioner.embedders.0.": "text_encoder",
    "conditioner.embedders.1.": "text_encoder_2",
    "depth_model.": "depth_model",
    "embedder.": "image_encoder",
    "control_model.": "controlnet",
}
_UNPREFIXED_CLIP = ("cond_stage_model.transformer.embeddings.", "cond_stage_model.transformer.encoder.")
_FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


@dataclass(frozen=True)
class Part:
    """One component of a checkpoint: how many tensors, numbers and bytes, and the dtypes by tensor count."""

    tensors: int
    parameters: int
    nbytes: int
    dtypes: dict[str, int]

    @property
    def dtype(self) -> str:
        """The dtype that most of its numbers have."""
        return max(self.dtypes, key=lambda code: self.dtypes[code]) if self.dtypes else ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.nbytes,
            "dtypes": dict(self.dtypes),
        }


def count_parts(checkpoint: Checkpoint) -> dict[str, Part]:
    """Count the tensors of each component that lies in the checkpoint's opened files."""
    unet = set(unet_names(checkpoint.tensors, checkpoint.layout).values())
    groups: dict[str, list[TensorInfo]] = {}
    for name, info in checkpoint.tensors.items():
        part = "unet" if name in unet else part_of(name)
        groups.setdefault(part, []).append(info)
    return {part: _count(infos) for part, infos in sorted(groups.items())}


def oddities(checkpoint: Checkpoint, parts: dict[str, Part]) -> Iterator[str]:
    """Say what a user should know before using the weights."""
    if ema := parts.get("unet_ema"):
        yield f"holds a second copy of the UNet (EMA, {ema.tensors} tensors); linzoo reads the other one"
    if unet := parts.get("unet"):
        yield from _dtype_oddities(unet.dtypes)
    if any(name.startswith(_UNPREFIXED_CLIP) for name in checkpoint.tensors):
        yield "the text encoder is named without 'text_model.', as in NAI's files; diffusers does not find it there"
    for name, info in checkpoint.tensors.items():
        if name.endswith("position_ids") and info.dtype in _FLOATS:
            yield f"'{name}' is {info.dtype} where whole numbers belong, as merging tools leave it"
        elif name.endswith(".scale_weight") or name == "scaled_fp8":
            yield f"'{name}': the weights are stored scaled; linzoo reads them unscaled, so use an unscaled file"
            break


def _dtype_oddities(dtypes: dict[str, int]) -> Iterator[str]:
    small = sorted(code for code in dtypes if code.startswith("F8"))
    if small:
        yield f"the UNet is stored in 8-bit floats ({', '.join(small)}); prefer the half-precision file"
    quantised = sorted(set(dtypes) - _FLOATS - set(small))
    if quantised:
        yield f"the UNet holds {', '.join(quantised)} tensors, probably quantised; linzoo does not dequantise"
    if len(dtypes) > 1 and not quantised:
        counts = ", ".join(f"{count} {code}" for code, count in dtypes.items())
        yield f"the UNet mixes dtypes: {counts}"


def part_of(name: str) -> str:
    """The component that a tensor outside the UNet belongs to, by its name; ``other`` where that is not known."""
    return next((part for prefix, part in _PARTS.items() if name.startswith(prefix)), "other")


def _count(infos: Iterable[TensorInfo]) -> Part:
    infos = list(infos)
    dtypes = Counter(info.dtype for info in infos)
    return Part(
        tensors=len(infos),
        parameters=sum(info.elements for info in infos),
        nbytes=sum(info.nbytes for info in infos),
        dtypes=dict(dtypes.most_common()),
    )
