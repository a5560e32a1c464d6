"""Generalized linear attention on plain tensors: O(N) in time and memory for N tokens.

Source: LinFusion (arXiv 2409.02097) with the constants of its published code. Per head,
``y_i = q_i . (1/N sum_j k_j^T v_j) / (q_i . 1/N sum_j k_j + 1e-4)`` with ``q, k = elu(.) + 1``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812

EPS = 1e-4


class State(NamedTuple):
    """All that the queries need to know of the keys and values; its size does not depend on N.

    Attributes:
        kv: mean over the tokens of ``k_j^T v_j``, shape (..., d, e).
        k: mean over the tokens of ``k_j``, shape (..., 1, d).
    """

    kv: torch.Tensor
    k: torch.Tensor


def feature_map(x: torch.Tensor) -> torch.Tensor:
    """``elu(x) + 1``: positive features, so that every attention weight is positive."""
    return F.elu(x) + 1.0


def summarise(k: torch.Tensor, v: torch.Tensor, key_weights: torch.Tensor | None = None) -> State:
    """Fold keys and values into their state.

    Args:
        k: key features, (..., N, d), positive.
        v: values, (..., N, e).
        key_weights: (..., N, 1), non-negative; 0 leaves a token out, as if it were not there.
    """
    if key_weights is not None:
        k = k * (key_weights / key_weights.mean(dim=-2, keepdim=True))
    # Half of the 1/N goes to either factor, so that neither product grows with N in half precision.
    half = k.shape[-2] ** -0.5
    return State(kv=(k.transpose(-2, -1) * half) @ (v * half), k=k.mean(dim=-2, keepdim=True))


def read(q: torch.Tensor, state: State) -> torch.Tensor:
    """What each query, (..., M, d), takes from a state: a weighted average of the values, (..., M, e)."""
    return q @ state.kv / (q @ state.k.transpose(-2, -1) + EPS)


def generalized_linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    key_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attend with all tokens to all tokens, in both directions, without an N x N matrix.

    Half precision is computed in float32: sums over N tokens do not survive it.

    Args:
        q: queries, projected but not yet mapped to features, (B, N, C); C is a multiple of ``heads``.
        k: keys, the same.
        v: values, the same.
        heads: number of heads.
        key_weights: (B or 1, N), non-negative weight of each token as a key; None for all alike.

    Returns:
        (B, N, C) in the dtype of ``q``.
    """
    if key_weights is not None:
        key_weights = _at_least_float32(key_weights)[:, None, :, None]
    with _without_autocast(q.device.type):
        state = summarise(feature_map(_split(k, heads)), _split(v, heads), key_weights)
        y = read(feature_map(_split(q, heads)), state)
    return y.transpose(1, 2).flatten(2).to(q.dtype)


def _without_autocast(device_type: str) -> AbstractContextManager[None]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return _at_least_float32(x).reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
