"""The public functions: they check what comes in, choose the backend and call it."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from linzoo_kernels import dispatch, launch, ops, reference, torch_ops
from linzoo_kernels.checks import check_apply, check_attention, check_norm, check_state
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
    """Attend with all queries to all keys, in both directions, without an Lq x Lk matrix.

    Per head ``o_i = phi(q_i) . (1/Lk sum_j phi(k_j)^T v_j) / (phi(q_i) . 1/Lk sum_j phi(k_j) + eps)`` with
    ``phi = elu + 1``: LinFusion (arXiv 2409.02097, section 3) with the constants of its published code.

    Tensors of mixed dtypes are brought to their common one; under autocast to its dtype, float64 excepted. Sums are
    float32 at least, except with the backend ``reference``, which computes in the dtype that it is given.

    Args:
        q: queries, (B, Lq, H*d), projected but not yet mapped to features. Rows may be strided, channels not.
        k: keys, (B, Lk, H*d), the same.
        v: values, (B, Lk, H*dv).
        heads: H.
        eps: added to the denominator.
        backend: ``auto`` (see :func:`use_backend`), ``triton``, ``torch``, ``compile`` or ``reference``.
        num_splits: into how many parts Triton splits the tokens, at most. None leaves that to the device; a fixed
            number gives the same bits for every batch size and on every device of an architecture.
        key_weights: (B or 1, Lk), non-negative weight of each token as a key, of which only the ratios matter; 0 leaves
            a token out, as if it were not there.

    Returns:
        (B, Lq, H*dv) in the dtype of ``q``; under autocast in its dtype.

    Raises:
        ValueError: shapes, strides or devices do not fit; the message names the argument.
        BackendError: the backend that was asked for cannot run this.
    """
    check_attention(q, k, v, heads, key_weights)
    dtype = _dtype_of(q)
    q, k, v = _to_common_dtype(q, k, v)
    name = dispatch.choose(backend, q.device, lambda: _attention_obstacle(k, v, heads, key_weights))
    if name == "triton":
        out = ops.linear_attention(q, k, v, heads, eps, num_splits or 0)
    else:
        out = _pytorch(name, "linear_attention")(q, k, v, heads, eps, key_weights)
    return _cast(out, dtype)


def linear_attention_state(
    k: Tensor, v: Tensor, *, heads: int, backend: str = "auto", num_splits: int | None = None
) -> LinearState:
    """Keys and values folded into all that queries need to know of them; see :func:`linear_attention`.

    States of parts of the tokens add up: to work through more tokens than fit in memory, or on several devices.
    """
    check_state(k, v, heads)
    k, v = _to_common_dtype(k, v)
    name = dispatch.choose(backend, k.device, lambda: _attention_obstacle(k, v, heads))
    if name == "triton":
        sums = ops.linear_attention_state(k, v, heads, num_splits or 0)
    else:
        sums = _pytorch(name, "linear_attention_state")(k, v, heads)
    return LinearState(sums, k.shape[1], k.shape[2] // heads)


def apply_state(
    q: Tensor, state: LinearState, *, eps: float = EPS, backend: str = "auto", num_splits: int | None = None
) -> Tensor:
    """What the queries read from a state: (B, Lq, H*dv) in the dtype of ``q``; see :func:`linear_attention`."""
    check_apply(q, state)
    (q,) = _to_common_dtype(q)
    heads = state.sums.shape[1]
    name = dispatch.choose(backend, q.device, lambda: _apply_obstacle(q, state))
    if name == "triton":
        sums = _cast(state.sums, torch_ops.accumulation_dtype(q))
        return ops.apply_state(q, sums, state.count, heads, eps, num_splits or 0)
    return _pytorch(name, "apply_state")(q, state.sums, state.count, heads, eps)


def ln_leaky_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    slope: float = 0.01,
    out: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Layer norm over the last dimension, then leaky ReLU: the middle of LinFusion's small networks f and g.

    Args:
        x: (..., C); rows may be strided, channels not.
        weight: (C,), of the layer norm.
        bias: (C,), the same.
        eps: added to the variance.
        slope: of the leaky ReLU, for negative values.
        out: written to and returned, such as a slice of the columns of a wider tensor; without it a new tensor is.
        backend: as for :func:`linear_attention`. Triton's is for inference: it has no gradient.

    Raises:
        ValueError: shapes, strides, dtypes or devices do not fit; ``out`` is given where a gradient is recorded.
        BackendError: the backend that was asked for cannot run this.
    """
    check_norm(x, weight, bias, out)
    recorded = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad)
    if recorded and out is not None:
        raise ValueError(
            "out is given and a gradient is recorded: call it under torch.no_grad(), or without out."
        )
    name = dispatch.choose(backend, x.device, lambda: _norm_obstacle(x, recorded))
    if name == "triton":
        return ops.ln_leaky_relu(x, weight, bias, eps, slope, out)
    y = _pytorch(name, "ln_leaky_relu")(x, weight, bias, eps, slope)
    return y if out is None else out.copy_(y)


def _dtype_of(*tensors: Tensor) -> torch.dtype:
    """The widest of their dtypes, or autocast's where that is on; autocast leaves float64 alone."""
    dtype = reduce(torch.promote_types, {x.dtype for x in tensors})
    device = tensors[0].device.type
    if (
        dtype != torch.float64
        and torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
    ):
        return torch.get_autocast_dtype(device)
    return dtype


def _to_common_dtype(*tensors: Tensor) -> list[Tensor]:
    dtype = _dtype_of(*tensors)
    return [_cast(x, dtype) for x in tensors]


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, which costs time even where there is nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def _pytorch(backend: str, function: str) -> Callable[..., Tensor]:
    """``function`` of the module that implements a backend other than Triton."""
    found: Callable[..., Tensor] = getattr(reference if backend == "reference" else torch_ops, function)
    return dispatch.compiled(found) if backend == "compile" and not torch.compiler.is_compiling() else found


def _attention_obstacle(k: Tensor, v: Tensor, heads: int, key_weights: Tensor | None = None) -> str | None:
    if key_weights is not None:
        return "it takes no key_weights"
    return _head_obstacle(k, k.shape[2] // heads, v.shape[2] // heads)


def _apply_obstacle(q: Tensor, state: LinearState) -> str | None:
    return _head_obstacle(q, state.head_dim, state.kv.shape[-1])


def _head_obstacle(x: Tensor, head_dim: int, value_dim: int) -> str | None:
    if head_dim != value_dim:
        return f"heads must be as wide in k as in v, and they have {head_dim} and {value_dim} channels"
    return launch.unsupported(head_dim, x.dtype, x.device)


def _norm_obstacle(x: Tensor, recorded: bool) -> str | None:
    if recorded:
        return "its ln_leaky_relu has no gradient"
    if x.shape[-1] > launch.MAX_CHANNELS:
        return f"its ln_leaky_relu takes at most {launch.MAX_CHANNELS} channels, and x has {x.shape[-1]}"
    return launch.unsupported(1, x.dtype)  # any head dim: the dtype alone matters here
