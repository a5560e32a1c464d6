"""Other people's linear attention, where it is installed; none of it ships with linzoo."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from linzoo_benchmarks.official import EPS
from linzoo_benchmarks.providers import HALVES, Provider, split_heads
from linzoo_benchmarks.shapes import Shape

FBI_LA_MODULES = ("fbi_la.ops.linear_attn.attention", "flash_bla.ops.linear_attn.fused")
"""flash-bidirectional-linear-attention under its name of 2024 and under today's."""


class FbiLa(Provider):
    """flash-bidirectional-linear-attention: non-causal and normalised, as LinFusion's.

    It takes features, (B, H, L, d), so that a layer has to map and transpose first. ``from_layer`` says whether that
    counts (from (B, L, C) and back), or whether it finds everything ready, its best case.
    """

    def __init__(self, *, from_layer: bool) -> None:
        self.name = "fbi_la" if from_layer else "fbi_la-ready"
        self.from_layer = from_layer

    def missing(self, device: torch.device) -> str | None:
        """It has kernels for GPUs only, and is on no package index."""
        if device.type != "cuda":
            return "needs a GPU"
        return None if _first_module() else "flash-bidirectional-linear-attention is not installed"

    def unfit(self, shape: Shape, dtype: torch.dtype) -> str | None:
        """Other widths of a head are wrong or not there, forward or backward; float32 would be TF32."""
        if shape.head_dim not in (32, 64):
            return "right for head_dim 32 and 64 only"
        return None if dtype in HALVES else "half precision only"

    def prepare(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features, heads first, unless that is part of what is timed."""
        return (q, k, v) if self.from_layer else self._features(q, k, v, heads)

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """With LinFusion's epsilon, which is not its default."""
        query, key, value = self._features(q, k, v, heads) if self.from_layer else (q, k, v)
        attend: Any = importlib.import_module(_first_module() or FBI_LA_MODULES[0]).linear_attention
        o: Tensor = attend(query, key, value, eps=EPS)
        return _join(o) if self.from_layer else o

    def finish(self, o: Tensor) -> Tensor:
        """(B, L, H*d)."""
        return o if self.from_layer else _join(o)

    @staticmethod
    def _features(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (split_heads(x, heads).transpose(1, 2).contiguous() for x in (q, k, v))
        return F.elu(query) + 1.0, F.elu(key) + 1.0, value


class Fla(Provider):
    """flash-linear-attention's chunked kernel: each token sees only those before it, which is another function."""

    name = "fla"
    function = "causal linear"

    def missing(self, device: torch.device) -> str | None:
        """It has kernels for GPUs only."""
        if device.type != "cuda":
            return "needs a GPU"
        return None if importlib.util.find_spec("fla") else "flash-linear-attention is not installed"

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Features in, (B, L, H, d), normalised as it does it."""
        chunk: Any = importlib.import_module("fla.ops.linear_attn").chunk_linear_attn
        query, key, value = (split_heads(x, heads) for x in (q, k, v))
        o: Tensor = chunk(F.elu(query) + 1.0, F.elu(key) + 1.0, value, normalize=True)[0]
        return o.flatten(2)


def _first_module() -> str | None:
    present = (name for name in FBI_LA_MODULES if importlib.util.find_spec(name.partition(".")[0]))
    return next(present, None)


def _join(o: Tensor) -> Tensor:
    """(B, H, L, d) to (B, L, H*d)."""
    return o.transpose(1, 2).flatten(2)
