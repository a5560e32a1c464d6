"""States of parts add up to the state of the whole, in one process and over two."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from definition import TRITON, attend, tensors
from linzoo_kernels import LinearState, apply_state, linear_attention, linear_attention_state
from torch import Tensor

EXACT = {"atol": 1e-12, "rtol": 1e-12}


def test_the_parts_of_a_state_are_the_sums_of_the_definition() -> None:
    _, k, v = tensors(2, 9, 3, 4, value_dim=5)
    state = linear_attention_state(k, v, heads=3)
    features = (torch.nn.functional.elu(k) + 1).unflatten(-1, (3, 4))
    torch.testing.assert_close(state.k, features.sum(1), **EXACT)
    kv = torch.einsum("blhd,blhe->bhde", features, v.unflatten(-1, (3, 5)))
    torch.testing.assert_close(state.kv, kv, **EXACT)
    assert (state.count, state.head_dim, state.sums.shape) == (9, 4, (2, 3, 24))
    assert state.kv.untyped_storage().data_ptr() == state.sums.untyped_storage().data_ptr()


@pytest.mark.parametrize("backend", ["reference", "torch", TRITON])
def test_states_of_parts_add_up(backend: str) -> None:
    q, k, v = tensors(2, 50, 2, 8, keys=70)
    parts = [
        linear_attention_state(a, b, heads=2, backend=backend)
        for a, b in zip(k.split(32, 1), v.split(32, 1), strict=True)
    ]
    state = parts[0] + parts[1] + parts[2]
    assert state.count == 70
    assert torch.equal(sum(parts).sums, state.sums)
    torch.testing.assert_close(apply_state(q, state, backend=backend), attend(q, k, v, 2), **EXACT)


@pytest.mark.parametrize("backend", ["torch", TRITON])
def test_a_float32_state_is_read_in_the_precision_of_float64_queries(backend: str) -> None:
    q, k, v = tensors(2, 9, 2, 8)
    state = linear_attention_state(k.float(), v.float(), heads=2)
    exact = LinearState(state.sums.double(), state.count, state.head_dim)
    want = apply_state(q, exact, eps=0.5, backend="reference")
    torch.testing.assert_close(apply_state(q, state, eps=0.5, backend=backend), want, **EXACT)


def test_a_state_adds_up_with_states_alone_and_shows_no_numbers() -> None:
    _, k, v = tensors(2, 9, 3, 4)
    state = linear_attention_state(k, v, heads=3)
    assert repr(state) == "LinearState of 9 tokens, (B, H, d, dv) = (2, 3, 4, 4) torch.float64 on cpu"
    for other in (1, 0.5, "state"):
        for left, right in ((state, other), (other, state)):
            with pytest.raises(TypeError):
                left + right


def test_gradients_through_a_sum_of_states() -> None:
    q, k, v = tensors(1, 6, 2, 3, grad=True)
    states = [
        linear_attention_state(a, b, heads=2) for a, b in zip(k.split(4, 1), v.split(4, 1), strict=True)
    ]
    got = torch.autograd.grad(apply_state(q, states[0] + states[1]).square().sum(), (q, k, v))
    want = torch.autograd.grad(linear_attention(q, k, v, heads=2).square().sum(), (q, k, v))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (LinearState(torch.zeros(2, 2, 6, dtype=torch.float64), 1, 2), r"\(2, 2, 2, 2\) torch.float64"),
        (LinearState(torch.zeros(1, 2, 6), 1, 2), r"\(1, 2, 2, 2\) torch.float32 on cpu"),
        (LinearState(torch.zeros(1, 2, 6, dtype=torch.float64), 1, 1), r"\(1, 2, 1, 5\) torch.float64"),
        (LinearState(torch.zeros(1, 2, 6, dtype=torch.float64, device="meta"), 1, 2), "on meta"),
    ],
)
def test_states_that_do_not_fit_do_not_add_up(other: LinearState, difference: str) -> None:
    state = LinearState(torch.zeros(1, 2, 6, dtype=torch.float64), 1, 2)
    with pytest.raises(ValueError, match=rf"\(1, 2, 2, 2\) torch.float64 on cpu.*{difference}"):
        state + other


TOKENS = (slice(0, 5), slice(5, 12))
"""Whose is which token, of two processes."""


def loss(out: Tensor, tokens: slice = slice(None)) -> Tensor:
    """A number for some of 12 tokens; those of parts add up to that of the whole."""
    weights = torch.linspace(-1, 1, 2 * 12 * 6, dtype=out.dtype).view(2, 12, 6)
    return (out * weights[:, tokens]).sum()


def one_process(rank: int, store: dist.TCPStore) -> tuple[int, Tensor, tuple[Tensor, ...]]:
    """Attend from the process's own queries to the keys of both, and back."""
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    q, k, v = (x[:, TOKENS[rank]].clone().requires_grad_() for x in tensors(2, 12, 2, 3))
    own = linear_attention_state(k, v, heads=2)
    before = own.sums.detach().clone()
    state = own.all_reduce()
    assert torch.equal(own.sums, before)
    out = apply_state(q, state)
    gradients = torch.autograd.grad(loss(out, TOKENS[rank]), (q, k, v))
    dist.barrier()
    dist.destroy_process_group()
    return state.count, out.detach(), gradients


def the_other_process(port: int, file: Path) -> None:
    torch.save(one_process(1, dist.TCPStore("127.0.0.1", port, 2)), file)


def test_two_processes_attend_as_one_would(tmp_path: Path) -> None:
    store = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    other = multiprocessing.get_context("spawn").Process(
        target=the_other_process, args=(store.port, tmp_path / "other.pt")
    )
    other.start()
    first = one_process(0, store)
    other.join(60)
    assert other.exitcode == 0

    inputs = [x.requires_grad_() for x in tensors(2, 12, 2, 3)]
    whole = linear_attention(*inputs, heads=2)
    want = torch.autograd.grad(loss(whole), inputs)
    results = first, torch.load(tmp_path / "other.pt")
    for tokens, (count, out, gradients) in zip(TOKENS, results, strict=True):
        assert count == 12
        torch.testing.assert_close(out, whole.detach()[:, tokens], **EXACT)
        for got, expected in zip(gradients, want, strict=True):
            torch.testing.assert_close(got, expected[:, tokens], **EXACT)
