"""What the tests of the Triton kernels share: where they run, the operator in float64, and errors.

On a CPU they run in Triton's interpreter; on a GPU machine the same tests run again, marked `gpu`, with the real half types.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from linzoo_kernels import launch, reference
from torch import Tensor

EPS = reference.EPS
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", GPU]
HEAD_DIMS = [32, 40, 64, 80, 128, 160]
HALVES = [torch.float16, torch.bfloat16]
LENGTHS = [1, 63, 64, 65, 129, 300]


def skip_where_it_cannot_run(device: str, dtype: torch.dtype = torch.float32) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if device == "cpu" and not launch.interpreted():
        pytest.skip("Triton was imported without its interpreter")
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("float64 is for the interpreter")


def randoms(*shapes: tuple[int, ...], dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> list[Tensor]:
    """Standard normal tensors: the same values for every dtype, up to its rounding."""
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random, dtype=torch.float64).to(device, dtype) for shape in shapes]


def forward(q: Tensor, k: Tensor, v: Tensor, heads: int, eps: float = EPS, splits: int = 0) -> Tensor:
    sums = launch.state_forward(k, v, heads, splits)
    return launch.apply_forward(q, sums, k.shape[1], heads, eps, splits)


def backward(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, heads: int, eps: float = EPS, splits: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    sums = launch.state_forward(k, v, heads, splits)
    dq, dsums = launch.apply_backward(q, sums, do, k.shape[1], heads, eps, splits)
    return dq, *launch.state_backward(k, v, dsums, heads, splits)


class Attention(torch.autograd.Function):
    """The four kernels as one differentiable function."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, splits: int) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.heads, ctx.splits = heads, splits
        return forward(q, k, v, heads, splits=splits)

    @staticmethod
    def backward(ctx: Any, do: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v = ctx.saved_tensors
        return *backward(q, k, v, do, ctx.heads, splits=ctx.splits), None, None


def torch_gradients(q: Tensor, k: Tensor, v: Tensor, do: Tensor, heads: int) -> tuple[Tensor, ...]:
    """o, dq, dk and dv by PyTorch, in the published order and in the dtype of the arguments."""
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    o = reference.linear_attention(q, k, v, heads)
    return o.detach(), *torch.autograd.grad(o, (q, k, v), do)


def error(actual: Tensor, exact: Tensor) -> float:
    """Root mean square of the error, over that of what is right."""
    assert actual.shape == exact.shape
    return float((actual.double() - exact).norm() / exact.norm())


def allowance(dtype: torch.dtype, device: str) -> float:
    """How much larger than torch's in the same dtype an error may be. The interpreter truncates to bfloat16: twice that."""
    return 4 if device == "cpu" and dtype == torch.bfloat16 else 2


@contextmanager
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that is allocated without being filled holds NaN: what a kernel forgets to write shows."""
    with monkeypatch.context() as patch:
        for name in ("empty", "empty_like"):
            original = getattr(torch, name)
            patch.setattr(torch, name, lambda *a, _make=original, **o: _make(*a, **o).fill_(float("nan")))
        yield


def guarded(x: Tensor) -> Tensor:
    """The same tensor (B, L, C), with NaN before and after it, each row and each batch entry: what is read beyond shows."""
    batch, length, channels = x.shape
    around = torch.full(
        (batch + 2, length + 130, channels + 48), float("nan"), dtype=x.dtype, device=x.device
    )
    inside = around[1:-1, 65:-65, 16:-32]
    inside.copy_(x)
    return inside
