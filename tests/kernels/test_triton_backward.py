"""The gradients of the Triton kernels: against autograd in float64, and where half precision could lose them."""

from __future__ import annotations

import pytest
import torch
from linzoo_kernels import launch
from torch import Tensor
from torch.autograd import gradcheck
from triton_cases import (
    DEVICES,
    EPS,
    HALVES,
    HEAD_DIMS,
    LENGTHS,
    Attention,
    allowance,
    backward,
    error,
    guarded,
    poisoned,
    randoms,
    skip_where_it_cannot_run,
    torch_gradients,
)


def exact_gradients(q: Tensor, k: Tensor, v: Tensor, do: Tensor, heads: int) -> tuple[Tensor, ...]:
    return torch_gradients(q.double(), k.double(), v.double(), do.double(), heads)[1:]


@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("device", DEVICES)
def test_matches_autograd_at_every_head_dim(dim: int, dtype: torch.dtype, bound: float, device: str) -> None:
    skip_where_it_cannot_run(device, dtype)
    shape = 1, 37, 2 * dim
    q, k, v, do = randoms(shape, (1, 70, 2 * dim), (1, 70, 2 * dim), shape, dtype=dtype, device=device)
    for actual, exact in zip(backward(q, k, v, do, 2), exact_gradients(q, k, v, do, 2), strict=True):
        assert error(actual, exact) < bound


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "dim", [32, 40]
)  # in float64 the smaller one makes the state's gradient in one launch
@pytest.mark.parametrize("device", DEVICES)
def test_any_length_in_any_number_of_chunks(
    dim: int, length: int, splits: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float64 if device == "cpu" else torch.float32
    skip_where_it_cannot_run(device)
    shapes = (
        (1, 301 - length, 2 * dim),
        (1, length, 2 * dim),
        (1, length, 2 * dim),
        (1, 301 - length, 2 * dim),
    )
    inputs = [guarded(x) for x in randoms(*shapes, dtype=dtype, device=device)]
    with poisoned(monkeypatch):
        gradients = backward(*inputs, 2, splits=splits)
    for actual, exact in zip(gradients, exact_gradients(*inputs, 2), strict=True):
        bound = 1e-12 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(actual.double(), exact, atol=bound, rtol=bound)


@pytest.mark.parametrize("dim", [40, 80, 160])
@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_no_worse_than_torch(dim: int, dtype: torch.dtype, device: str) -> None:
    skip_where_it_cannot_run(device)
    inputs = randoms(*[(1, 130, dim)] * 4, dtype=dtype, device=device)
    plain = torch_gradients(*inputs, 1)[1:]
    exact = exact_gradients(*inputs, 1)
    for actual, torch_s, right in zip(backward(*inputs, 1), plain, exact, strict=True):
        assert error(actual, right) <= error(torch_s, right) * allowance(dtype, device)


@pytest.mark.parametrize("dim", [64, 160])
@pytest.mark.parametrize("device", DEVICES)
def test_float16_keeps_gradients_that_are_small_because_tokens_are_many(dim: int, device: str) -> None:
    """What the state's gradient of a million tokens is made of ends below float16: dk and dv must be as if it did not."""
    skip_where_it_cannot_run(device)
    k, v = randoms((1, 64, dim), (1, 64, dim), dtype=torch.float16, device=device)
    (dsums,) = randoms((1, 1, dim * dim + dim), dtype=torch.float32, device=device)
    usual = launch.state_backward(k, v, dsums, 1)
    tiny = launch.state_backward(k.float(), v.float(), dsums * 2.0**-30, 1)
    for half, full in zip(usual, tiny, strict=True):
        assert error(half, full.double() * 2**30) < 1e-3
    # An eighth of the gradients' size is all that float16 results can hold: the products inside hold any size.
    for small, large in zip(launch.state_backward(k, v, dsums * 2.0**-3, 1), usual, strict=True):
        assert error(small * 8, large.double()) < 1e-3


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**10])
@pytest.mark.parametrize("device", DEVICES)
def test_float16_keeps_small_and_large_gradients_of_the_output(scale: float, device: str) -> None:
    skip_where_it_cannot_run(device)
    q, k, v, do = randoms(*[(1, 65, 64)] * 4, dtype=torch.float16, device=device)
    do = do * scale
    sums = launch.state_forward(k, v, 1)
    _, dsums = launch.apply_backward(q, sums, do, 65, 1, EPS)
    _, exact = launch.apply_backward(q.float(), sums, do.float(), 65, 1, EPS)
    assert error(dsums, exact.double()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dim", [32, 160])
@pytest.mark.parametrize("values", [(30.0, -30.0), (-30.0, 30.0), (-30.0, -30.0), (30.0, 30.0), (0.0, 0.0)])
@pytest.mark.parametrize("device", DEVICES)
def test_extreme_values_stay_finite(
    dtype: torch.dtype, dim: int, values: tuple[float, float], device: str
) -> None:
    skip_where_it_cannot_run(device)
    q, k = (torch.full((1, 64, dim), x, dtype=dtype, device=device) for x in values)
    v, do = randoms(*[(1, 64, dim)] * 2, dtype=dtype, device=device)
    bound = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.2}[dtype]
    for actual, exact in zip(backward(q, k, v, do, 1), exact_gradients(q, k, v, do, 1), strict=True):
        torch.testing.assert_close(actual.double(), exact, atol=bound, rtol=bound)


@pytest.mark.parametrize("dim", [40, 160])
@pytest.mark.parametrize("device", DEVICES)
def test_columns_of_wider_tensors_and_an_expanded_gradient(dim: int, device: str) -> None:
    skip_where_it_cannot_run(device)
    (packed,) = randoms((1, 65, 3 * dim + 16), dtype=torch.float32, device=device)
    q, k, v = packed[..., 16:].chunk(3, dim=-1)
    do = torch.ones((), device=device).expand(q.shape)
    plain = backward(q.contiguous(), k.contiguous(), v.contiguous(), do.contiguous(), 1)
    for strided, contiguous in zip(backward(q, k, v, do, 1), plain, strict=True):
        assert torch.equal(strided, contiguous)


@pytest.mark.parametrize("dim", [64, 160])
@pytest.mark.parametrize("device", DEVICES)
def test_runs_repeat_bit_by_bit(dim: int, device: str) -> None:
    skip_where_it_cannot_run(device)
    inputs = randoms(*[(1, 70, dim)] * 4, dtype=torch.float32, device=device)
    for first, second in zip(backward(*inputs, 1, splits=3), backward(*inputs, 1, splits=3), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("dim", "fast"), [(40, True), pytest.param(3, False, marks=pytest.mark.slow)], ids=["fast", "every entry"]
)
def test_gradcheck(dim: int, fast: bool) -> None:
    skip_where_it_cannot_run("cpu")
    inputs = [x.requires_grad_() for x in randoms(*[(1, 3, 2 * dim)] * 3, dtype=torch.float64)]
    assert gradcheck(Attention.apply, (*inputs, 2, 1), fast_mode=fast)
