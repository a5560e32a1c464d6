"""The operator as LinFusion published it: the same operations in the same order, in whatever dtype comes in.

It is what the other implementations are measured against: bit by bit equal to the published layer in float32, and
exact enough to be an oracle in float64. Source: LinFusion (arXiv 2409.02097) and its published code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

EPS = 1e-4
"""What the published code adds to the denominator, a mean over the keys."""


def feature_map(x: Tensor) -> Tensor:
    """``elu(x) + 1``: positive features, so that every attention weight is positive."""
    return F.elu(x) + 1.0


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, eps: float = EPS, key_weights: Tensor | None = None
) -> Tensor:
    """``y_i = q_i . (1/N sum_j k_j^T v_j) / (q_i . 1/N sum_j k_j + eps)`` a head, with ``q, k = elu(.) + 1``.

    Args:
        q: queries, (B, Lq, H*d), projected but not yet mapped to features.
        k: keys, (B, Lk, H*d), the same.
        v: values, (B, Lk, H*dv).
        heads: H.
        eps: added to the denominator.
        key_weights: (B or 1, Lk), non-negative; brought to a mean of 1, then multiplied into the key features.

    Returns:
        (B, Lq, H*dv).
    """
    query, key, value = (_split(x, heads) for x in (q, k, v))
    query, key = feature_map(query), feature_map(key)
    if key_weights is not None:
        key = key * normalised(key_weights).to(key.dtype)[:, None, :, None]
    half = key.shape[-2] ** -0.5  # half of 1/N to either factor: float16 would overflow otherwise
    z = query @ key.mean(dim=-2, keepdim=True).transpose(-2, -1) + eps
    kv = (key.transpose(-2, -1) * half) @ (value * half)
    return _join(query @ kv / z)


def linear_attention_state(k: Tensor, v: Tensor, heads: int) -> Tensor:
    """The sums over the keys that the queries need; (B, H, d*dv + d), see :class:`linzoo_kernels.LinearState`."""
    key, value = feature_map(_split(k, heads)), _split(v, heads)
    sums = torch.cat([(key.transpose(-2, -1) @ value).flatten(-2), key.sum(dim=-2)], dim=-1)
    return sums.to(torch.promote_types(sums.dtype, torch.float32))


def apply_state(q: Tensor, sums: Tensor, count: int, heads: int, eps: float = EPS) -> Tensor:
    """What the queries read from the ``sums`` over ``count`` keys."""
    query = feature_map(_split(q, heads))
    means = (sums / count).to(q.dtype)
    dim = query.shape[-1]
    kv, k = means[..., :-dim].unflatten(-1, (dim, -1)), means[..., -dim:]
    return _join(query @ kv / (query @ k[..., None] + eps))


def ln_leaky_relu(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    """Layer norm over the last dimension, then leaky ReLU: the middle of LinFusion's small networks f and g."""
    return F.leaky_relu(F.layer_norm(x, x.shape[-1:], weight, bias, eps), slope)


def normalised(key_weights: Tensor) -> Tensor:
    """Weights with a mean of 1 over the keys; all zero where they are all zero."""
    tiny = torch.finfo(key_weights.dtype).tiny
    return key_weights / key_weights.mean(dim=-1, keepdim=True).clamp_min(tiny)


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, L, H*d) to (B, H, L, d)."""
    split: Tensor = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


def _join(x: Tensor) -> Tensor:
    """(B, H, L, d) to (B, L, H*d)."""
    return x.transpose(1, 2).flatten(2)
