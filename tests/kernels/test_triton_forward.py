"""The Triton kernels forward: against float64, at every head dim and dtype, whatever the lengths, strides and values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from linzoo_kernels import launch, reference
from torch.utils._python_dispatch import TorchDispatchMode
from triton_cases import (
    DEVICES,
    EPS,
    HALVES,
    HEAD_DIMS,
    LENGTHS,
    allowance,
    error,
    forward,
    guarded,
    poisoned,
    randoms,
    skip_where_it_cannot_run,
)


@pytest.mark.parametrize("dim", HEAD_DIMS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("device", DEVICES)
def test_matches_the_reference_at_every_head_dim(
    dim: int, dtype: torch.dtype, bound: float, device: str
) -> None:
    skip_where_it_cannot_run(device, dtype)
    q, k, v = randoms((1, 37, 2 * dim), (1, 70, 2 * dim), (1, 70, 2 * dim), dtype=dtype, device=device)
    exact = reference.linear_attention(q.double(), k.double(), v.double(), 2)
    assert error(forward(q, k, v, 2), exact) < bound


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("device", DEVICES)
def test_any_length_in_any_number_of_chunks(
    length: int, splits: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float64 if device == "cpu" else torch.float32
    skip_where_it_cannot_run(device)
    q, k, v = randoms((2, 301 - length, 80), (2, length, 80), (2, length, 80), dtype=dtype, device=device)
    q, k, v = guarded(q), guarded(k), guarded(v)
    exact = reference.linear_attention(q.double(), k.double(), v.double(), 2)
    with poisoned(monkeypatch):
        o = forward(q, k, v, 2, splits=splits)
    assert error(o, exact) < (1e-12 if dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("splits", [1, 3, 7])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_are_whole_tiles_and_no_more_than_asked_for(length: int, splits: int) -> None:
    tokens, chunk, _, chunks = launch._plan("state_forward", torch.empty(1, length, 64), 1, splits).sizes
    assert tokens == length
    assert (chunks - 1) * chunk < length <= chunks * chunk
    assert chunks <= splits
    rows = launch._config("state_forward", 64, torch.float32, torch.device("cpu")).block_rows
    assert chunk % rows == 0


@pytest.mark.parametrize("device", DEVICES)
def test_sums_of_any_strides(device: str) -> None:
    skip_where_it_cannot_run(device)
    q, k, v = randoms((2, 20, 32), (2, 30, 32), (2, 30, 32), dtype=torch.float32, device=device)
    sums = launch.state_forward(k, v, 2)
    want = launch.apply_forward(q, sums, 30, 2, EPS)
    strided = sums.transpose(0, 2).contiguous().transpose(0, 2)
    assert not strided.is_contiguous()
    assert torch.equal(launch.apply_forward(q, strided, 30, 2, EPS), want)
    for got, gradient in zip(
        (*launch.apply_backward(q, strided, q, 30, 2, EPS), *launch.state_backward(k, v, strided, 2)),
        (*launch.apply_backward(q, sums, q, 30, 2, EPS), *launch.state_backward(k, v, sums, 2)),
        strict=True,
    ):
        assert torch.equal(got, gradient)


@pytest.mark.parametrize("dim", [40, 64, 160])
@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_no_worse_than_torch(dim: int, dtype: torch.dtype, device: str) -> None:
    skip_where_it_cannot_run(device)
    q, k, v = randoms((1, 130, 2 * dim), (1, 200, 2 * dim), (1, 200, 2 * dim), dtype=dtype, device=device)
    exact = reference.linear_attention(q.double(), k.double(), v.double(), 2)
    plain = error(reference.linear_attention(q, k, v, 2), exact)
    assert error(forward(q, k, v, 2), exact) <= plain * allowance(dtype, device)


@pytest.mark.parametrize("dim", [40, 160])
@pytest.mark.parametrize("device", DEVICES)
def test_columns_of_wider_tensors(dim: int, device: str) -> None:
    skip_where_it_cannot_run(device)
    (packed,) = randoms((2, 65, 6 * dim + 16), dtype=torch.float32, device=device)
    q, k, v = packed[..., 16:].chunk(3, dim=-1)
    assert k.stride(1) == packed.shape[-1]
    assert torch.equal(forward(q, k, v, 2), forward(q.contiguous(), k.contiguous(), v.contiguous(), 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("values", [(30.0, -30.0), (-30.0, 30.0), (-30.0, -30.0), (30.0, 30.0), (0.0, 0.0)])
@pytest.mark.parametrize("device", DEVICES)
def test_extreme_values_stay_finite(dtype: torch.dtype, values: tuple[float, float], device: str) -> None:
    skip_where_it_cannot_run(device, dtype)
    q, k = (torch.full((1, 65, 64), x, dtype=dtype, device=device) for x in values)
    (v,) = randoms((1, 65, 64), dtype=dtype, device=device)
    exact = reference.linear_attention(q.double(), k.double(), v.double(), 1)
    # elu(-30) + 1 of the reference keeps three digits of exp(-30) even in float64; the kernels take exp.
    largest = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(forward(q, k, v, 1).double(), exact, atol=largest, rtol=largest)


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("device", DEVICES)
def test_nan_is_not_hidden(where: int, device: str) -> None:
    skip_where_it_cannot_run(device)
    qkv = randoms((1, 5, 32), (1, 5, 32), (1, 5, 32), dtype=torch.float32, device=device)
    qkv[where][0, 2, 7] = float("nan")
    nan = forward(*qkv, 1).isnan()
    assert nan[0, 2].any()
    assert nan.any(dim=-1).sum() == (1 if where == 0 else 5)


@pytest.mark.parametrize("device", DEVICES)
def test_keys_so_small_that_float16_would_lose_their_state(device: str) -> None:
    skip_where_it_cannot_run(device)
    q, k, v = randoms((1, 64, 64), (1, 64, 64), (1, 64, 64), dtype=torch.float16, device=device)
    k = k - 12  # phi(k) is about 6e-6, and float16 ends at 6e-8
    exact = reference.linear_attention(q.double(), k.double(), v.double(), 1, 1e-9)
    sums = launch.state_forward(k.float(), v.float(), 1)
    assert error(launch.apply_forward(q, sums, 64, 1, 1e-9), exact) < 1e-3


@pytest.mark.parametrize(("row", "column"), [(3, 5), (3, 150), (150, 3), (150, 150)])
@pytest.mark.parametrize("device", DEVICES)
def test_float16_takes_sums_of_a_million_tokens_of_either_sign(row: int, column: int, device: str) -> None:
    skip_where_it_cannot_run(device)
    (q,) = randoms((1, 5, 160), dtype=torch.float16, device=device)
    sums = torch.zeros(1, 1, 160 * 160 + 160, device=device)
    sums[..., row * 160 + column] = -1e6
    sums[..., -160:] = 1e6
    exact = reference.apply_state(q.double(), sums.double(), 10**6, 1)
    assert error(launch.apply_forward(q, sums, 10**6, 1, EPS), exact) < 1e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_state_of_subnormal_numbers_is_none(device: str) -> None:
    skip_where_it_cannot_run(device)
    (q,) = randoms((1, 5, 64), dtype=torch.float16, device=device)
    sums = torch.full((1, 1, 64 * 64 + 64), 1e-39, device=device)
    assert (launch.apply_forward(q, sums, 5, 1, EPS) == 0).all()
    assert all((x == 0).all() for x in launch.state_backward(q, q, sums, 1))


@pytest.mark.parametrize("dim", [64, 160])
@pytest.mark.parametrize("device", DEVICES)
def test_states_of_pieces_add_up_and_runs_repeat_bit_by_bit(dim: int, device: str) -> None:
    skip_where_it_cannot_run(device)
    k, v = randoms((2, 300, dim), (2, 300, dim), dtype=torch.float32, device=device)
    whole = launch.state_forward(k, v, 1, 3)
    assert whole.shape == (2, 1, dim * dim + dim)
    assert whole.dtype == torch.float32
    assert torch.equal(whole, launch.state_forward(k, v, 1, 3))
    parts = launch.state_forward(k[:, :65], v[:, :65], 1) + launch.state_forward(k[:, 65:], v[:, 65:], 1)
    assert error(parts, whole.double()) < 1e-6
    exact = reference.linear_attention_state(k.double(), v.double(), 1)
    assert error(whole, exact) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_no_queries_no_batch(device: str) -> None:
    skip_where_it_cannot_run(device)
    sums = torch.ones(2, 1, 32 * 32 + 32, device=device)
    assert launch.apply_forward(torch.empty(2, 0, 32, device=device), sums, 7, 1, EPS).shape == (2, 0, 32)
    none = torch.empty(0, 5, 32, device=device)
    assert launch.state_forward(none, none, 1).shape == (0, 1, 32 * 32 + 32)


def test_what_the_kernels_do_not_take() -> None:
    assert launch.unsupported(64, torch.bfloat16) is None
    assert "at most 160 channels, not 161" in str(launch.unsupported(161, torch.float16))
    assert "int32" in str(launch.unsupported(64, torch.int32))
    k = torch.empty(1, 4, 176)
    with pytest.raises(ValueError, match="at most 160 channels, not 176"):
        launch.state_forward(k, k, 1)


def test_wide_float32_heads_do_not_fit_on_small_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA GeForce RTX 4090")
    for capability, fits in (((8, 0), True), ((8, 9), False), ((9, 0), True), ((12, 0), False)):
        launch._is_small.cache_clear()
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        reason = launch.unsupported(160, torch.float32, device)
        assert (reason is None) == fits
        assert fits or "take 120 KiB of shared memory, and NVIDIA GeForce RTX 4090 has 99" in str(reason)
        assert launch.unsupported(160, torch.float16, device) is None
        assert launch.unsupported(128, torch.float32, device) is None
    launch._is_small.cache_clear()


def test_attention_over_4096_tokens_is_three_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[str] = []

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            launches.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    def record(plan: Any, *_args: Any) -> None:
        launches.append(plan.kernel.__name__)

    monkeypatch.setattr(launch._Plan, "launch", record)
    monkeypatch.setattr(launch, "_multiprocessors", lambda _: 132)
    launch._cut.cache_clear()
    q = torch.zeros(2, 4096, 640, dtype=torch.bfloat16)
    with Operators():
        forward(q, q, q, 10)
    launch._cut.cache_clear()
    assert [name for name in launches if name != "empty"] == ["state_forward", "sum", "apply_forward"]


@pytest.mark.parametrize(
    ("capability", "target"),
    [((8, 0), "sm_80"), ((8, 9), "sm_80"), ((9, 0), "sm_90"), ((10, 0), "sm_90"), ((12, 0), "sm_80")],
)
def test_a_device_takes_its_own_table_and_that_of_its_shared_memory(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], target: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA X")
    assert launch.tables.__wrapped__(torch.device("cuda", 0)) == (target, "NVIDIA X")


def test_splits_leave_no_nearly_empty_wave() -> None:
    # 20 heads on 264 places: 13 chunks give 260 programs, 14 would give a second wave of 16.
    assert launch.choose_splits(sequences=20, slots=264, most=256) == 12
    assert launch.choose_splits(sequences=20, slots=264, most=4) == 4
    assert launch.choose_splits(sequences=264, slots=264, most=256) == 1
    assert launch.choose_splits(sequences=200, slots=264, most=256) == 5
    assert launch.choose_splits(sequences=100, slots=250, most=4) == 2  # 2 and 4 idle alike: the fewer
    assert launch.choose_splits(sequences=0, slots=264, most=256) == 1
