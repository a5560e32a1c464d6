"""A provider that computes something else is never timed."""

from __future__ import annotations

from pathlib import Path

import linzoo_kernels
import pytest
import torch
from linzoo_benchmarks import kernels
from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.gate import check, draw, probe
from linzoo_benchmarks.providers import Eager, Ours, Provider
from linzoo_benchmarks.roofline import Ceilings
from linzoo_benchmarks.rows import read_rows
from linzoo_benchmarks.shapes import Shape
from torch import Tensor

CPU = torch.device("cpu")
SHAPE = Shape("tiny", 2, 37, 2, 16)


class Sabotaged(Provider):
    """The torch backend with something done to it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        if self.name == "gradient of v":
            v = v.detach() + 0.9 * (v - v.detach())
        if self.name == "nan in gradient of v":
            v = v.clone()
            v.register_hook(lambda gradient: gradient * torch.nan)
        o = linzoo_kernels.linear_attention(
            q, k, v, heads=heads, backend="torch", eps=1e-6 if self.name == "epsilon" else 1e-4
        )
        if self.name == "nan":
            return torch.where(torch.arange(o.shape[1])[None, :, None] == 5, torch.nan, o)
        if self.name == "transposed":
            return o.unflatten(-1, (heads, -1)).transpose(2, 3).flatten(2)
        if self.name == "last row":
            return torch.cat([o[:, :-1], 0 * o[:, -1:]], dim=1)
        if self.name == "unwritten":
            written = torch.empty_like(o)
            written[:, :-1] = o[:, :-1]
            return written
        if self.name == "shape":
            return o[:, :-1]
        if self.name == "gradient":
            return o.detach() + 0.9 * (o - o.detach())
        if self.name == "raises":
            raise RuntimeError("no such kernel")
        return o


FORWARD = ["epsilon", "nan", "transposed", "last row", "unwritten", "shape", "raises"]


@pytest.mark.parametrize("fault", FORWARD)
def test_a_sabotaged_provider_gets_no_row_and_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("linzoo_benchmarks.session.measure_ceilings", lambda *_: Ceilings(10.0, 0.1))
    out = tmp_path / "rows.csv"
    bad, good = Sabotaged(fault), Ours("torch")
    with pytest.raises(BenchmarkError, match=fault) as caught:
        kernels.run(
            [SHAPE], device=CPU, dtype=torch.float32, out=out, say=lambda _: None,
            providers=[bad, good], modes=["forward"],
        )  # fmt: skip
    assert caught.value.exit_code == 1
    assert [(row.provider, row.mode) for row in read_rows([out])] == [("torch", "forward")]


def test_a_wrong_gradient_is_seen_though_the_forward_is_right() -> None:
    bad, inputs = Sabotaged("gradient"), draw(SHAPE, torch.float32, CPU)
    assert check(bad, inputs, backward=False).problem is None
    verdict = check(bad, inputs, backward=True)
    assert verdict.error == pytest.approx(0.1, rel=0.01)
    assert "off by 1.0e-01" in str(verdict.problem)


@pytest.mark.parametrize("mode", ["backward", "forward+backward"])
def test_both_modes_with_gradients_check_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr("linzoo_benchmarks.session.measure_ceilings", lambda *_: Ceilings(10.0, 0.1))
    with pytest.raises(BenchmarkError, match="gradient"):
        kernels.run(
            [SHAPE], device=CPU, dtype=torch.float32, out=tmp_path / "rows.csv", say=lambda _: None,
            providers=[Sabotaged("gradient")], modes=[mode],
        )  # fmt: skip


def test_one_wrong_gradient_is_enough() -> None:
    inputs = draw(SHAPE, torch.float32, CPU)
    assert check(Sabotaged("gradient of v"), inputs, backward=True).error == pytest.approx(0.1, rel=0.01)
    assert "NaN" in str(check(Sabotaged("nan in gradient of v"), inputs, backward=True).problem)


def test_half_precision_hides_an_epsilon_and_the_probe_does_not() -> None:
    bad = Sabotaged("epsilon")
    assert check(bad, draw(SHAPE, torch.float16, CPU), backward=False).problem is None
    assert "off by" in str(probe(bad, SHAPE, CPU).problem)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("provider", [Ours("torch"), Ours("reference"), Eager()], ids=lambda p: p.name)
def test_what_is_right_passes(provider: Provider, dtype: torch.dtype, backward: bool) -> None:
    verdict = check(provider, draw(SHAPE, dtype, CPU), backward=backward)
    assert verdict.problem is None
    assert verdict.error is not None
    assert verdict.error < {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 1e-2}[dtype]


def test_memory_is_poisoned_only_while_it_is_checked() -> None:
    from linzoo_benchmarks.gate import poisoned

    before = torch.empty, torch.empty_like, Tensor.new_empty
    with poisoned():
        assert torch.empty(3).isnan().all()
        assert torch.zeros(2).new_empty(3).isnan().all()
        assert torch.empty(3, dtype=torch.int64).shape == (3,)
    assert (torch.empty, torch.empty_like, Tensor.new_empty) == before


class Counting(Sabotaged):
    """Nothing is done to it; it counts its calls by the dtype it is given."""

    calls: list[torch.dtype]

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        self.calls.append(q.dtype)
        return super().run(q, k, v, heads)


def test_the_probe_runs_once_for_each_width_of_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linzoo_benchmarks.session.measure_ceilings", lambda *_: Ceilings(10.0, 0.1))
    provider = Counting("sound")
    provider.calls = []
    kernels.run(
        [Shape("a", 1, 8, 1, 16), Shape("b", 1, 9, 2, 16), Shape("c", 1, 8, 1, 8)], device=CPU, dtype=torch.float64,
        out=tmp_path / "rows.csv", say=lambda _: None, providers=[provider], modes=["forward"],
    )  # fmt: skip
    assert provider.calls.count(torch.float32) == 2


@pytest.mark.parametrize(("mode", "timed"), [("forward", 1), ("backward", 0), ("forward+backward", 1)])
def test_the_forward_before_a_backward_is_not_timed(mode: str, timed: int) -> None:
    provider = Counting("sound")
    provider.calls = []
    task = kernels._task(provider, draw(SHAPE, torch.float32, CPU), mode)
    made = task.prepare()
    before = len(provider.calls)
    result = task.run(made)
    assert len(provider.calls) == before + timed
    assert len(result) == (SHAPE.batch if mode == "forward" else 3)


def test_inputs_are_fresh_each_time() -> None:
    first, second = (draw(SHAPE, torch.float32, CPU) for _ in range(2))
    assert not torch.equal(first.q, second.q)


@pytest.mark.parametrize(("dtype", "low"), [(torch.float32, -4), (torch.float16, 0)])
def test_epsilon_counts_for_every_second_query_in_float32(dtype: torch.dtype, low: float) -> None:
    q = draw(Shape("long", 1, 2000, 2, 16), dtype, CPU).q.float()
    assert q[:, ::2].mean() == pytest.approx(low, abs=0.1)
    assert q[:, 1::2].mean() == pytest.approx(0, abs=0.1)
