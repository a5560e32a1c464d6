"""Timing and memory of calls on a CPU."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
import torch
from linzoo_benchmarks import timing
from linzoo_benchmarks.roofline import measure_ceilings
from linzoo_benchmarks.timing import FEWEST, MOST, Task, Timing, peak_memory, round_robin

CPU = torch.device("cpu")
MB = 2**20


def test_quantiles() -> None:
    samples = [float(each) for each in range(1, 12)]
    assert Timing.of(samples, []) == Timing(6.0, 3.0, 9.0, None)
    assert Timing.of(samples, [0.1, 0.3, 0.2]) == Timing(6.0, 3.0, 9.0, 0.2)


def test_tasks_take_turns_and_preparing_is_not_timed() -> None:
    calls: list[str] = []
    slow = Task(run=lambda _: calls.append("slow"), prepare=lambda: time.sleep(0.01))
    fast = Task(run=lambda _: calls.append("fast"))
    timings = round_robin({"slow": slow, "fast": fast}, CPU, seconds=0.0)
    assert calls == ["slow", "fast"] * (FEWEST + 1)
    assert timings["slow"].median < 5


class Gpu:
    """What is asked of a GPU, in order; its clock is a list of milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                gpu.done.append("event")
                self.at = len(gpu.done)

            def synchronize(self) -> None:
                gpu.done.append("wait")

            def elapsed_time(self, end: Event) -> float:
                return end.at - self.at

        class Filler:
            def sum(self) -> None:
                gpu.done.append("read")

        @contextlib.contextmanager
        def capture(graph: object) -> Iterator[None]:
            gpu.done.append("capture")
            yield
            gpu.done.append("captured")

        class Graph:
            def replay(self) -> None:
                gpu.done.append("replay")

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capture)
        monkeypatch.setattr(timing, "_cache_filler", lambda device: Filler())

    def task(self, name: str) -> Task:
        def run(_: object) -> None:
            self.done.append(name)
            time.sleep(0.002)

        return Task(run, prepare=lambda: self.done.append(f"prepare {name}"))


def test_a_gpu_is_kept_busy_until_the_call_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    found = round_robin({name: gpu.task(name) for name in "ab"}, torch.device("cuda"), seconds=0.0)
    busy = ["read"] * timing.READS
    once = [["prepare " + name, *busy, "event", name, "event"] for name in "ab"]
    warm_up = ["prepare a", "a", "prepare b", "b"]
    assert gpu.done == warm_up + [*once[0], *once[1], "wait", "wait"] * FEWEST
    assert found["a"].median == 2
    assert found["b"].host is not None
    assert 2 <= found["b"].host < 200


def test_a_graph_is_captured_once_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)

    def run() -> torch.Tensor:
        gpu.done.append("run")
        return torch.ones(1)

    task = timing.graphed(run)
    assert [task.once() for _ in range(2)] == [1, 1]
    assert gpu.done == ["capture", "run", "captured", "replay", "replay"]


def test_most_samples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    round_robin({"short": Task(lambda _: calls.append(1))}, CPU, seconds=60.0)
    assert len(calls) == 1 + MOST


def test_time_is_spent_until_there_is_enough() -> None:
    ends: list[float] = []
    task = Task(lambda _: (time.sleep(0.01), ends.append(time.perf_counter())))
    round_robin({"task": task}, CPU, seconds=0.06)
    assert ends[-1] - ends[0] >= 0.06
    assert len(ends) <= 7


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
