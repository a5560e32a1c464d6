"""The PyTorch implementation: values, gradients, precision, memory, and what it can be traced by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from definition import attend, positive, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from linzoo_kernels import EPS, reference, torch_ops
from linzoo_kernels.torch_ops import apply_state, linear_attention, linear_attention_state
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

EXACT = {"atol": 1e-12, "rtol": 1e-12}

sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "length": st.integers(1, 33),
        "heads": st.sampled_from([1, 2, 4]),
        "dim": st.integers(1, 5),
        "seed": st.integers(0, 10_000),
    }
)


@pytest.fixture(params=[1, 700, torch_ops.CPU_PIECE], ids=lambda elements: f"pieces-of-{elements}")
def elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(torch_ops, "CPU_PIECE", request.param)
    return request.param


@pytest.mark.parametrize("dim", [1, 8, 40, 64, 80, 160])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 300])
def test_agrees_with_the_reference(length: int, dim: int) -> None:
    q, k, v = tensors(2, length, 2, dim)
    torch.testing.assert_close(
        linear_attention(q, k, v, 2), reference.linear_attention(q, k, v, 2), atol=1e-12, rtol=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(sizes)
def test_agrees_with_the_definition_in_float32(size: dict[str, int]) -> None:
    q, k, v = tensors(**size, dtype=torch.float32)
    want = attend(q.double(), k.double(), v.double(), size["heads"])
    assert (linear_attention(q, k, v, size["heads"]) - want).abs().max() <= 1e-6


@pytest.mark.parametrize("tokens", [1, 7, 256, 1025])
def test_agrees_with_the_definition_at_any_length(tokens: int) -> None:
    q, k, v = tensors(2, tokens, 2, 8, seed=tokens)
    assert (linear_attention(q, k, v, 2) - attend(q, k, v, 2)).abs().max() <= 1e-13


def test_cutting_into_pieces_changes_nothing(elements: int) -> None:
    q, k, v = tensors(3, 65, 2, 8, keys=41, value_dim=5)
    weights = torch.rand(1, 41, dtype=torch.float64)
    got = linear_attention(q, k, v, 2, EPS, weights)
    torch.testing.assert_close(got, attend(q, k, v, 2, weights.expand(3, -1)), **EXACT)
    torch.testing.assert_close(linear_attention(q, k, v, 2), attend(q, k, v, 2), **EXACT)


def test_any_strides(elements: int) -> None:
    packed = torch.randn(2, 50, 3 * 16, dtype=torch.float64)
    q, k, v = packed.chunk(3, dim=-1)
    torch.testing.assert_close(linear_attention(q, k, v, 2), attend(q, k, v, 2), **EXACT)
    q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert q.stride(-1) != 1
    torch.testing.assert_close(linear_attention(q, k, v, 2), attend(q, k, v, 2), **EXACT)
    q, k, v = (x[:1].expand(3, -1, -1)[:, ::3] for x in (q, k, v))
    torch.testing.assert_close(linear_attention(q, k, v, 2), attend(q, k, v, 2), **EXACT)


def test_nothing_in_nothing_out() -> None:
    q, k, v = tensors(2, 0, 2, 4, keys=3)
    assert linear_attention(q, k, v, 2).shape == (2, 0, 8)
    assert linear_attention(q[:0], k[:0], v[:0], 2).shape == (0, 0, 8)


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_weights_are_positive_and_sum_to_one_but_for_the_epsilon(size: dict[str, int]) -> None:
    q, k, _ = tensors(**size)
    ones = torch.ones(*k.shape[:2], size["heads"], dtype=torch.float64)
    got = linear_attention(q, k, ones, size["heads"])
    influence = torch.cat(
        [
            positive(a) @ positive(b).mean(1, keepdim=True).mT
            for a, b in zip(q.chunk(size["heads"], -1), k.chunk(size["heads"], -1), strict=True)
        ],
        dim=-1,
    )
    torch.testing.assert_close(got, influence / (influence + 1e-4))
    assert ((got > 0) & (got < 1)).all()


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_the_order_of_tokens_does_not_matter(size: dict[str, int]) -> None:
    q, k, v = tensors(**size)
    order = torch.randperm(size["length"], generator=torch.Generator().manual_seed(size["seed"]))
    straight = linear_attention(q, k, v, size["heads"])
    shuffled = linear_attention(q[:, order], k[:, order], v[:, order], size["heads"])
    torch.testing.assert_close(shuffled, straight[:, order], **EXACT)


@settings(deadline=None, max_examples=30)
@given(sizes, st.integers(1, 32))
def test_tokens_may_be_summed_and_read_in_chunks(size: dict[str, int], chunk: int) -> None:
    q, k, v = tensors(**size)
    heads = size["heads"]
    parts = [
        linear_attention_state(a, b, heads) for a, b in zip(k.split(chunk, 1), v.split(chunk, 1), strict=True)
    ]
    sums = sum(parts[1:], parts[0])
    torch.testing.assert_close(sums, linear_attention_state(k, v, heads), **EXACT)
    read = torch.cat([apply_state(part, sums, size["length"], heads) for part in q.split(chunk, 1)], 1)
    torch.testing.assert_close(read, linear_attention(q, k, v, heads), **EXACT)


@settings(deadline=None, max_examples=30)
@given(sizes.filter(lambda size: size["length"] > 1), st.data())
def test_a_key_of_weight_zero_is_as_if_not_there(size: dict[str, int], data: st.DataObject) -> None:
    q, k, v = tensors(**size)
    kept = data.draw(st.integers(1, size["length"] - 1))
    weights = (torch.arange(size["length"]) < kept).double()[None]
    masked = linear_attention(q, k, v, size["heads"], EPS, weights)
    shorter = linear_attention(q, k[:, :kept], v[:, :kept], size["heads"])
    torch.testing.assert_close(masked, shorter, **EXACT)


def test_weights_that_are_all_zero_leave_nothing_and_no_nan() -> None:
    q, k, v = tensors()
    assert (linear_attention(q, k, v, 2, EPS, torch.zeros(1, 65)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_rounded_at_the_end(dtype: torch.dtype) -> None:
    q, k, v = (30 * x.to(dtype) for x in tensors(1, 4096, 2, 16, dtype=torch.float32, seed=3))
    got = linear_attention(q, k, v, 2)
    assert got.dtype == dtype
    assert torch.equal(got, linear_attention(q.float(), k.float(), v.float(), 2).to(dtype))
    assert linear_attention_state(k, v, 2).dtype == torch.float32


def test_autocast_does_not_lower_the_precision() -> None:
    q, k, v = tensors(1, 512, 2, 16, dtype=torch.float32, seed=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_attention(q, k, v, 2)
    assert torch.equal(inside, linear_attention(q, k, v, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("q_value", [-30.0, 0.0, 30.0, 6e4])
@pytest.mark.parametrize("k_value", [-30.0, 0.0, 30.0, 6e4])
def test_extremes_stay_finite(q_value: float, k_value: float, dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in tensors(1, 64, 2, 8, dtype=torch.float32))
    q, k = (torch.full_like(q, value).requires_grad_() for value in (q_value, k_value))
    out = linear_attention(q, k, v, 2)
    gradients = torch.autograd.grad(out.float().sum(), (q, k))
    assert all(x.isfinite().all() for x in (out, *gradients))


@pytest.mark.parametrize(("keys", "value_dim"), [(5, 3), (7, 4)])
def test_gradients_of_first_and_second_order(keys: int, value_dim: int) -> None:
    inputs = tensors(1, 5, 2, 3, keys=keys, value_dim=value_dim, grad=True)
    assert gradcheck(lambda *x: linear_attention(*x, 2), inputs)
    assert gradgradcheck(lambda *x: linear_attention(*x, 2), inputs)


def test_gradients_reach_a_state_and_its_weights() -> None:
    q, k, v = tensors(1, 4, 2, 2, grad=True)
    sums = linear_attention_state(k, v, 2).detach().requires_grad_()
    assert gradcheck(lambda *x: apply_state(*x, 4, 2), (q, sums))
    weights = torch.rand(1, 4, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda w: linear_attention(q, k, v, 2, EPS, w), (weights,))


class Allocations(TorchDispatchMode):
    """The bytes of every storage that comes out of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in (x for x in tree_leaves(out) if isinstance(x, Tensor)):
            storage = x.untyped_storage()
            self.storages[storage.data_ptr()] = max(
                storage.nbytes(), self.storages.get(storage.data_ptr(), 0)
            )
        return out


def test_inference_takes_little_memory_beside_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_ops, "CPU_PIECE", 2**12)
    q, k, v = tensors(2, 4096, 2, 16, dtype=torch.bfloat16)
    with Allocations() as allocations:
        out = linear_attention(q, k, v, 2)
    for known in (q, k, v, out):
        allocations.storages.pop(known.untyped_storage().data_ptr(), None)
    assert out.nbytes == 2 * 2**18
    assert max(allocations.storages.values()) <= 4 * 2**12 * torch.get_num_threads()


def test_compiles_once_as_one_graph_for_any_number_of_tokens() -> None:
    compiled = torch.compile(linear_attention, fullgraph=True, backend="aot_eager")
    for length in (65, 33):
        inputs = tensors(length=length, grad=True)
        for x in inputs:
            torch._dynamo.mark_dynamic(x, 1)
        want, got = linear_attention(*inputs, 2), compiled(*inputs, 2)
        torch.testing.assert_close(got, want, **EXACT)
        for a, b in zip(*(torch.autograd.grad(y.sum(), inputs) for y in (got, want)), strict=True):
            torch.testing.assert_close(a, b, **EXACT)


class Attention(torch.nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return linear_attention(q, k, v, 2)


def test_exports_with_any_number_of_tokens() -> None:
    tokens = torch.export.Dim("tokens", min=2, max=1 << 24)
    shapes = {name: {1: tokens} for name in "qkv"}
    program = torch.export.export(Attention(), tuple(tensors()), dynamic_shapes=shapes)
    other = tensors(2, 7, 2, 8, seed=1)
    torch.testing.assert_close(program.module()(*other), attend(*other, 2), **EXACT)


def test_meta_tensors_have_shapes_only() -> None:
    q, k, v = (x.to("meta") for x in tensors(2, 5, 2, 8, keys=9, value_dim=3, dtype=torch.float16))
    out = linear_attention(q, k, v, 2)
    assert (out.device.type, out.shape, out.dtype) == ("meta", (2, 5, 6), torch.float16)


def test_maps_over_a_further_dimension() -> None:
    q, k, v = tensors(3, 9, 2, 4)
    mapped = torch.vmap(lambda q, k: linear_attention(q[None], k[None], v[:1], 2)[0])(q, k)
    torch.testing.assert_close(mapped, attend(q, k, v[:1].expand(3, -1, -1), 2), **EXACT)


def test_checkpointing_gives_the_same_gradients() -> None:
    q, k, v = tensors(grad=True)
    plain = torch.autograd.grad(linear_attention(q, k, v, 2).sum(), (q, k, v))
    out = torch.utils.checkpoint.checkpoint(linear_attention, q, k, v, 2, use_reentrant=False)
    again = torch.autograd.grad(out.sum(), (q, k, v))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ln_leaky_relu_agrees_with_the_reference(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(3, 5, 24, dtype=dtype), torch.randn(24), torch.randn(24)
    want = reference.ln_leaky_relu(x, weight.to(dtype), bias.to(dtype))
    assert torch.equal(torch_ops.ln_leaky_relu(x, weight, bias), want)
