"""The public functions: they check what comes in, choose the backend and call it."""

from __future__ import annotations

from torch import Tensor

from linzoo_kernels import dispatch, reference, torch_ops
from linzoo_kernels.reference import EPS
from linzoo_kernels.state import LinearState


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: int,
    eps: float = EPS,
    backend: str = "auto",
    num_splits: int | None = None,
    key_weights: Tensor | None = None,
) -> Tensor:
    """Attend with all tokens to all tokens, in both directions, without an Lq x Lk matrix."""
    if dispatch.requested(backend) == "reference":
        return reference.linear_attention(q, k, v, heads, eps, key_weights)
    return torch_ops.linear_attention(q, k, v, heads, eps, key_weights)


def linear_attention_state(
    k: Tensor, v: Tensor, *, heads: int, backend: str = "auto", num_splits: int | None = None
) -> LinearState:
    """Keys and values folded into their state."""
    implementation = reference if dispatch.requested(backend) == "reference" else torch_ops
    return LinearState(implementation.linear_attention_state(k, v, heads), k.shape[1], k.shape[2] // heads)


def apply_state(
    q: Tensor, state: LinearState, *, eps: float = EPS, backend: str = "auto", num_splits: int | None = None
) -> Tensor:
    """What the queries read from a state."""
    implementation = reference if dispatch.requested(backend) == "reference" else torch_ops
    return implementation.apply_state(q, state.sums, state.count, state.sums.shape[1], eps)


def ln_leaky_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    slope: float = 0.01,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Layer norm over the last dimension, then leaky ReLU."""
    y = torch_ops.ln_leaky_relu(x, weight, bias, eps, slope)
    return y if out is None else out.copy_(y)
