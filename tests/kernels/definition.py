"""Linear attention written out from its definition, every query with every key, no shared code; and random tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

INTERPRETED = pytest.mark.skipif(
    torch.cuda.is_available(), reason="where a GPU is, Triton is not interpreted"
)
TRITON = pytest.param("triton", marks=INTERPRETED)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, key_weights: Tensor | None = None) -> Tensor:
    """o_i = sum_j a_ij v_j with a_ij = w_j phi(q_i).phi(k_j) / (sum_l w_l phi(q_i).phi(k_l) + 1e-4 Lk)."""
    out = []
    for query, key, value in zip(*(x.chunk(heads, dim=-1) for x in (q, k, v)), strict=True):
        scores = torch.einsum("bid,bjd->bij", positive(query), positive(key))
        if key_weights is not None:
            scores = scores * (key_weights / key_weights.mean(-1, keepdim=True))[:, None]
        a = scores / (scores.sum(-1, keepdim=True) + 1e-4 * k.shape[1])
        out.append(torch.einsum("bij,bje->bie", a, value))
    return torch.cat(out, dim=-1)


def positive(x: Tensor) -> Tensor:
    return torch.where(x > 0, x + 1, torch.exp(x.clamp(max=0)))


def tensors(
    batch: int = 2,
    length: int = 65,
    heads: int = 2,
    dim: int = 8,
    *,
    keys: int | None = None,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    grad: bool = False,
) -> list[Tensor]:
    """q, k and v."""
    random = torch.Generator().manual_seed(seed)
    keys = length if keys is None else keys
    shapes = (length, dim), (keys, dim), (keys, value_dim or dim)
    return [
        torch.randn(batch, n, heads * d, generator=random, dtype=dtype).requires_grad_(grad)
        for n, d in shapes
    ]
