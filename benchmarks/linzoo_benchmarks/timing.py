"""Time and memory of calls on a device, several providers in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

FEWEST, MOST = 3, 50
"""Samples of a call, however long or short it takes."""

READS = 16
"""How often a GPU reads 256 MB before a call: about a millisecond, in which the host gets the call queued."""


@dataclass(frozen=True)
class Task:
    """Something to time: ``run`` on what ``prepare`` made just before, which is not timed."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None

    def once(self) -> Any:
        """Prepare and run, untimed."""
        return self.run(self.prepare())


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median, and the fifth of the samples below and above.

    Attributes:
        host: median of the time until the call returned to Python; None on a CPU, where that is all of it.
    """

    median: float
    q20: float
    q80: float
    host: float | None = None

    @staticmethod
    def of(samples: list[float], host: list[float]) -> Timing:
        """Summarise samples in milliseconds."""
        fifths = statistics.quantiles(samples, n=5, method="inclusive")
        return Timing(
            statistics.median(samples), fifths[0], fifths[3], statistics.median(host) if host else None
        )


@dataclass(frozen=True)
class _Sample:
    """One call that was made; asking for ``elapsed`` milliseconds waits for it."""

    elapsed: Callable[[], float]
    host: float | None


def round_robin(tasks: Mapping[str, Task], device: torch.device, seconds: float) -> dict[str, Timing]:
    """Time tasks in turn, so that what the machine does meanwhile hits all alike.

    Each is called at least ``FEWEST`` times, then until it has taken ``seconds``. On a GPU events tell the time on the
    device. Before every call it is kept busy until the call is queued, so that its time does not depend on how fast
    Python is, which stands in ``Timing.host``; and its L2 cache is emptied.
    """
    for task in tasks.values():
        task.once()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    host: dict[str, list[float]] = {name: [] for name in tasks}
    call = _on_gpu if device.type == "cuda" else _on_host
    waiting = list(tasks)
    while waiting:
        samples = {name: call(tasks[name], device) for name in waiting}
        for name, sample in samples.items():
            times[name].append(sample.elapsed())
            if sample.host is not None:
                host[name].append(sample.host)
        waiting = [name for name in waiting if not _enough(times[name], seconds)]
    return {name: Timing.of(times[name], host[name]) for name in tasks}


def _enough(samples: list[float], seconds: float) -> bool:
    return len(samples) >= FEWEST and (sum(samples) >= 1000 * seconds or len(samples) >= MOST)


def _on_host(task: Task, device: torch.device) -> _Sample:  # noqa: ARG001
    made = task.prepare()
    start = time.perf_counter()
    task.run(made)
    elapsed = 1000 * (time.perf_counter() - start)
    return _Sample(lambda: elapsed, host=None)


def _on_gpu(task: Task, device: torch.device) -> _Sample:
    """Queue one call behind work that takes the GPU longer than it takes the host to queue it."""
    made = task.prepare()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(READS):
        _cache_filler(device).sum()
    start.record()
    begin = time.perf_counter()
    task.run(made)
    host = 1000 * (time.perf_counter() - begin)
    end.record()

    def elapsed() -> float:
        end.synchronize()
        return float(start.elapsed_time(end))

    return _Sample(elapsed, host)


@lru_cache(maxsize=1)
def _cache_filler(device: torch.device) -> torch.Tensor:
    """Four times the L2 cache of an H200: reading it leaves nothing of the inputs in there.

    Written lines would have to go back to memory during the call that is timed.
    """
    return torch.zeros(64 * 2**20, device=device)


def peak_memory(task: Task, device: torch.device) -> int:
    """Bytes of tensors that a call held at its peak beyond those that were there, its result included."""
    if device.type == "cuda":
        made = task.prepare()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        task.run(made)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        made = task.prepare()
        with torch.autograd.profiler.record_function(_RUN):
            result = task.run(made)
    del result  # held until here, so that the profile does not see it go
    return _peak(profiler.kineto_results.events())


_RUN = "linzoo: the call itself"


def _peak(events: Iterable[Any]) -> int:
    """The most that was held after the call began, beyond what was held then."""
    ordered = sorted(events, key=lambda each: each.start_ns())
    begin = next(each.start_ns() for each in ordered if each.name() == _RUN)
    held = base = peak = 0
    for event in ordered:
        if event.name() == "[memory]":
            held += event.nbytes()
            if event.start_ns() < begin:
                base = held
            else:
                peak = max(peak, held - base)
    return peak


def graphed(run: Callable[[], torch.Tensor]) -> Task:
    """A call captured in a CUDA graph: replayed without its launches. ``run`` was called before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay(_: Any) -> torch.Tensor:
        graph.replay()
        return result

    return Task(replay)
