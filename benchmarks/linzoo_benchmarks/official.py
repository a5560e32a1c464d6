"""LinFusion's self-attention operation by operation as its published code runs it: what speed-ups are against.

Written anew from the published code (LinFusion, arXiv 2409.02097; ``src/linfusion/attention.py``), apart from
``linzoo_kernels``, so that each checks the other. Copies that the published code makes are made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

EPS = 1e-4


def official_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """From projected q, k, v, (B, L, H*d), to what goes into ``to_out``."""
    tokens = k.shape[1]
    query, key, value = _heads_to_batch(q, heads), _heads_to_batch(k, heads), _heads_to_batch(v, heads)
    query = F.elu(query) + 1.0
    key = F.elu(key) + 1.0
    z = query @ key.mean(dim=-2, keepdim=True).transpose(-2, -1) + EPS
    kv = (key.transpose(-2, -1) * tokens**-0.5) @ (value * tokens**-0.5)
    attended: Tensor = query @ kv / z
    return _batch_to_heads(attended, heads)


class OfficialLayer(nn.Module):
    """The whole layer, (B, L, C) to (B, L, C), with weights under the official names."""

    def __init__(self, weights: Mapping[str, Tensor], heads: int) -> None:
        """Take the weights of a layer as its state dict names them."""
        super().__init__()
        self.heads = heads
        width = weights["to_q.weight"].shape[0]
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])
        mid = weights["to_q_.0.weight"].shape[0]
        self.to_q_ = _branch(width, mid)
        self.to_k_ = _branch(width, mid)
        self.load_state_dict(dict(weights))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The layer without its optional arguments."""
        query = self.to_q(x + self.to_q_(x))
        key = self.to_k(x + self.to_k_(x))
        value = self.to_v(x)
        y: Tensor = official_attention(query, key, value, self.heads)
        for module in self.to_out:
            y = module(y)
        return y


def _branch(width: int, mid: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, mid), nn.LayerNorm(mid), nn.LeakyReLU(inplace=True), nn.Linear(mid, width)
    )


def _heads_to_batch(x: Tensor, heads: int) -> Tensor:
    """(B, L, H*d) to (B*H, L, d), a copy, as diffusers' ``head_to_batch_dim``."""
    batch, tokens, width = x.shape
    split = x.reshape(batch, tokens, heads, width // heads).permute(0, 2, 1, 3)
    return split.reshape(batch * heads, tokens, width // heads)


def _batch_to_heads(x: Tensor, heads: int) -> Tensor:
    """(B*H, L, d) to (B, L, H*d), a copy, as diffusers' ``batch_to_head_dim``."""
    many, tokens, dim = x.shape
    joined = x.reshape(many // heads, heads, tokens, dim).permute(0, 2, 1, 3)
    return joined.reshape(many // heads, tokens, heads * dim)


def random_weights(channels: int, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a layer in float32 as a trained one's are scaled, the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(seed)

    def matrix() -> Tensor:
        return torch.randn(channels, channels, generator=generator) / math.sqrt(channels)

    def vector(mean: float = 0.0) -> Tensor:
        return mean + 0.1 * torch.randn(channels, generator=generator)

    weights = {f"{name}.weight": matrix() for name in ("to_q", "to_k", "to_v", "to_out.0")}
    weights["to_out.0.bias"] = vector()
    for branch in ("to_q_", "to_k_"):
        weights |= {f"{branch}.0.weight": matrix(), f"{branch}.0.bias": vector()}
        weights |= {f"{branch}.1.weight": vector(1.0), f"{branch}.1.bias": vector()}
        weights |= {f"{branch}.3.weight": matrix(), f"{branch}.3.bias": vector()}
    return weights
