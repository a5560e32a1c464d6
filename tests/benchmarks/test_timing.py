"""Timing and memory of calls on a CPU."""

from __future__ import annotations

import time

import pytest
import torch
from linzoo_benchmarks.roofline import measure_ceilings
from linzoo_benchmarks.timing import FEWEST, Task, Timing, peak_memory, round_robin

CPU = torch.device("cpu")
MB = 2**20


def test_quantiles() -> None:
    assert Timing.of([float(each) for each in range(1, 12)]) == Timing(6.0, 3.0, 9.0)


def test_tasks_take_turns_and_preparing_is_not_timed() -> None:
    calls: list[str] = []
    slow = Task(run=lambda _: calls.append("slow"), prepare=lambda: time.sleep(0.01))
    fast = Task(run=lambda _: calls.append("fast"))
    timings = round_robin({"slow": slow, "fast": fast}, CPU, seconds=0.0)
    assert calls == ["slow", "fast"] * (FEWEST + 1)
    assert timings["slow"].median < 5


def test_peak_memory_counts_what_was_held_at_once() -> None:
    x = torch.ones(MB // 4)

    def run(y: torch.Tensor) -> torch.Tensor:
        z = x + y
        z = z * 2  # the old z is there until the new one is
        return z + 1

    assert peak_memory(Task(run, prepare=lambda: torch.ones(MB // 4)), CPU) == pytest.approx(2 * MB, rel=0.01)


def test_peak_memory_of_a_backward_is_beyond_what_the_forward_left() -> None:
    x = torch.ones(MB // 4, requires_grad=True)
    backward = Task(lambda y: torch.autograd.grad(y, x), prepare=lambda: (x * 2).exp().sum())
    assert MB <= peak_memory(backward, CPU) <= 3.1 * MB


def test_ceilings_of_this_machine() -> None:
    ceilings = measure_ceilings(CPU, torch.float32, seconds=0.0)
    assert 0.1 < ceilings.copy_gbps < 2000
    assert 1e-3 < ceilings.gemm_tflops < 100
