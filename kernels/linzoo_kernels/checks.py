"""What must hold of the tensors that come in. Each message names the argument, what it is and what it should be."""

from __future__ import annotations

from torch import Tensor

from linzoo_kernels.state import LinearState


def check_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, key_weights: Tensor | None) -> None:
    """Raise a ValueError where queries, keys and values do not fit one another."""
    check_state(k, v, heads)
    _check_tokens("q", q, heads)
    _check_same("q", q.shape[2], "k", k.shape[2], "channels")
    _check_same("q", q.shape[0], "k", k.shape[0], "batch entries")
    _check_device("q", q, "k", k)
    if key_weights is not None:
        _check_key_weights(key_weights, k)


def check_state(k: Tensor, v: Tensor, heads: int) -> None:
    """Raise a ValueError where keys and values do not fit each other, or there are none."""
    _check_tokens("k", k, heads)
    _check_tokens("v", v, heads)
    _check_same("v", v.shape[0], "k", k.shape[0], "batch entries")
    _check_same("v", v.shape[1], "k", k.shape[1], "tokens")
    _check_device("v", v, "k", k)
    if k.shape[1] == 0:
        raise ValueError(f"k is {_of(k)}: it has 0 tokens, and attention needs at least 1.")


def check_apply(q: Tensor, state: LinearState) -> None:
    """Raise a ValueError where queries do not fit a state."""
    batch, heads = state.sums.shape[:2]
    _check_tokens("q", q, heads)
    _check_same("q", q.shape[2], "the state", heads * state.head_dim, "channels")
    _check_same("q", q.shape[0], "the state", batch, "batch entries")
    _check_device("q", q, "the state", state.sums)


def check_norm(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None) -> None:
    """Raise a ValueError where the parameters, or the tensor to write to, do not fit ``x``."""
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter.shape != x.shape[-1:]:
            raise ValueError(f"{name} is {_of(parameter)} and x is {_of(x)}: {name} must be {_of(x, -1)}.")
        _check_device(name, parameter, "x", x)
    if out is not None and (out.shape != x.shape or out.dtype != x.dtype or out.device != x.device):
        raise ValueError(
            f"out is {_of(out)} {out.dtype} on {out.device}: it must be as x is, {_of(x)} {x.dtype} on {x.device}."
        )
    for name, tensor in (("x", x), ("out", out)):
        if tensor is not None:
            _check_last_stride(name, tensor)


def _check_tokens(name: str, x: Tensor, heads: int) -> None:
    if x.ndim != 3:
        raise ValueError(f"{name} is {_of(x)}: it must be (batch, tokens, heads * head dim).")
    if not x.is_floating_point():
        raise ValueError(f"{name} is {x.dtype}: it must be of a floating point dtype.")
    if heads < 1 or x.shape[2] % heads or x.shape[2] == 0:
        raise ValueError(f"{name} is {_of(x)}: its {x.shape[2]} channels do not divide into {heads} heads.")
    _check_last_stride(name, x)


def _check_last_stride(name: str, x: Tensor) -> None:
    if x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(
            f"{name} is {_of(x)} with strides {tuple(x.stride())}: the last stride must be 1, not {x.stride(-1)};"
            f" pass {name}.contiguous()."
        )


def _check_same(name: str, value: int, other: str, its: int, what: str) -> None:
    if value != its:
        raise ValueError(f"{name} has {value} {what} and {other} has {its}: they must have as many.")


def _check_device(name: str, x: Tensor, other: str, y: Tensor) -> None:
    if x.device != y.device:
        raise ValueError(f"{name} is on {x.device} and {other} on {y.device}: they must be on one device.")


def _check_key_weights(key_weights: Tensor, k: Tensor) -> None:
    batch, tokens = k.shape[:2]
    if key_weights.ndim != 2 or key_weights.shape[0] not in (1, batch) or key_weights.shape[1] != tokens:
        raise ValueError(
            f"key_weights is {_of(key_weights)} and k is {_of(k)}: key_weights must be"
            f" ({batch} or 1, {tokens}), a weight for every key."
        )
    _check_device("key_weights", key_weights, "k", k)


def _of(x: Tensor, first: int = 0) -> str:
    return str(tuple(x.shape[first:]))
