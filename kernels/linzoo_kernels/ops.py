"""The Triton kernels as operators of torch.library, so that autograd, torch.compile and export know them.

Defined plainly: ``torch.library.custom_op`` puts more Python around every call, and one UNet makes 140 of them.
They take (B, L, H*d) tensors of any batch and row stride and a last stride of 1, and return contiguous ones. Importing
this module does not import Triton; :mod:`linzoo_kernels.launch` does when it first computes.

What autograd saves is q, k, v and the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from linzoo_kernels import flops, launch
from linzoo_kernels.dispatch import BackendError
from linzoo_kernels.torch_ops import accumulation_dtype


def linear_attention_state(k: Tensor, v: Tensor, heads: int, num_splits: int = 0) -> Tensor:
    """The sums over the keys, (B, H, d*d + d); the tokens in ``num_splits`` parts, 0 for as many as suit the device."""
    return _call(_state, k, v, heads, num_splits)  # type: ignore[no-any-return]


def apply_state(q: Tensor, sums: Tensor, count: int, heads: int, eps: float, num_splits: int = 0) -> Tensor:
    """What the queries read from the ``sums`` over ``count`` keys, (B, Lq, H*d)."""
    return _call(_apply, q, sums, count, heads, eps, num_splits)  # type: ignore[no-any-return]


def linear_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, eps: float, num_splits: int = 0) -> Tensor:
    """See :func:`linzoo_kernels.linear_attention`."""
    sums = linear_attention_state(k, v, heads, num_splits)
    return apply_state(q, sums, k.shape[1], heads, eps, num_splits)


def ln_leaky_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float, out: Tensor | None = None
) -> Tensor:
    """See :func:`linzoo_kernels.ln_leaky_relu`."""
    if out is None:
        return _call(_norm, x, weight, bias, eps, slope)  # type: ignore[no-any-return]
    _norm_out(x, weight, bias, eps, slope, out)
    return out


def _call(operator: Any, *args: Any) -> Any:
    """``operator(*args)``; past torch's autograd layer, which is Python and takes 10 us a call, where nothing is recorded."""
    if (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args))
    ):
        return operator(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


def _define(schema: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    name = schema.partition("(")[0]
    qualified = f"linzoo_kernels::{name}"
    torch.library.define(qualified, schema.removeprefix(name), tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, ("cpu", "cuda"), compute)
    torch.library.register_fake(qualified, fake)
    return getattr(torch.ops.linzoo_kernels, name).default


def _compute_norm_into(*args: Any) -> None:
    launch.ln_leaky_relu(*args)


def _fake_sums(k: Tensor, v: Tensor, heads: int, _: int) -> Tensor:
    dim, value_dim = k.shape[-1] // heads, v.shape[-1] // heads
    return k.new_empty(k.shape[0], heads, dim * value_dim + dim, dtype=accumulation_dtype(k))


def _fake_gradients(*like: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in like)


_state = _define(
    "linear_attention_state(Tensor k, Tensor v, int heads, int num_splits) -> Tensor",
    launch.state_forward,
    _fake_sums,
)
_state_backward = _define(
    "linear_attention_state_backward(Tensor k, Tensor v, Tensor dsums, int heads, int num_splits) -> (Tensor, Tensor)",
    launch.state_backward,
    lambda k, v, dsums, heads, num_splits: _fake_gradients(k, v),
)
_apply = _define(
    "apply_state(Tensor q, Tensor sums, SymInt count, int heads, float eps, int num_splits) -> Tensor",
    launch.apply_forward,
    lambda q, sums, count, heads, eps, num_splits: q.new_empty(q.shape),
)
_apply_backward = _define(
    "apply_state_backward(Tensor q, Tensor sums, Tensor do, SymInt count, int heads, float eps, int num_splits)"
    " -> (Tensor, Tensor)",
    launch.apply_backward,
    lambda q, sums, do, count, heads, eps, num_splits: _fake_gradients(q, sums),
)
_norm = _define(
    "ln_leaky_relu(Tensor x, Tensor weight, Tensor bias, float eps, float slope) -> Tensor",
    launch.ln_leaky_relu,
    lambda x, weight, bias, eps, slope: x.new_empty(x.shape),
)
_norm_out = _define(
    "ln_leaky_relu_out(Tensor x, Tensor weight, Tensor bias, float eps, float slope, Tensor(a!) out) -> ()",
    _compute_norm_into,
    lambda *args: None,
)


def _save_state_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    k, v, ctx.heads, ctx.num_splits = inputs
    ctx.save_for_backward(k, v)


def _differentiate_state(ctx: Any, dsums: Tensor) -> tuple[Tensor | None, ...]:
    dk, dv = _call(_state_backward, *ctx.saved_tensors, dsums, ctx.heads, ctx.num_splits)
    return dk, dv, None, None


def _save_apply_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    q, sums, *ctx.options = inputs
    ctx.save_for_backward(q, sums)


def _differentiate_apply(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:
    q, sums = ctx.saved_tensors
    dq, dsums = _call(_apply_backward, q, sums, do, *ctx.options)
    return dq, dsums, None, None, None, None


def _refuse(message: str) -> Callable[..., NoReturn]:
    def backward(*_: Any) -> NoReturn:
        raise BackendError(message)

    return backward


_ONCE = "The Triton backward of linear attention has no backward of its own; for second derivatives pass backend='torch'."
_NEVER = (
    "The Triton ln_leaky_relu is for inference and has no backward; to train through it pass backend='torch'."
)

torch.library.register_autograd(_state, _differentiate_state, setup_context=_save_state_inputs)
torch.library.register_autograd(_apply, _differentiate_apply, setup_context=_save_apply_inputs)
torch.library.register_autograd(_state_backward, _refuse(_ONCE))
torch.library.register_autograd(_apply_backward, _refuse(_ONCE))
torch.library.register_autograd(_norm, _refuse(_NEVER))
flops.register()
