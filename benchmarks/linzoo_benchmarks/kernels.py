"""``linzoo bench kernels``: attention over q, k, v by everyone who has it, each checked before it is timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.gate import Inputs, Verdict, check, draw, probe
from linzoo_benchmarks.peers import FbiLa, Fla
from linzoo_benchmarks.providers import Compiled, Eager, Ours, Provider, Softmax
from linzoo_benchmarks.rows import Row
from linzoo_benchmarks.session import Say, Session, present
from linzoo_benchmarks.shapes import Shape
from linzoo_benchmarks.timing import Task, graphed, peak_memory, round_robin

PROVIDERS: tuple[Provider, ...] = (
    Ours("triton"),
    Ours("torch"),
    Compiled(),
    Eager(),
    Ours("compile"),
    Softmax("sdpa-flash", SDPBackend.FLASH_ATTENTION),
    Softmax("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION),
    Softmax("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION),
    FbiLa(from_layer=False),
    FbiLa(from_layer=True),
    Fla(),
)
UNITS = {"forward": 4, "graph": 4, "backward": 7, "forward+backward": 11}
"""The fewest bytes of a mode, in units of the size of q: forward q, k, v and o; backward q, do, dq, k, v, dk, dv.

What an implementation reads twice is its own affair and does not count.
"""
MODES = tuple(UNITS)
PROBE = "float32 probe"
GRAPH_TOKENS = 4096
"""Up to here a call is so short that its launches count, and is timed in a CUDA graph too."""
INPUTS, MOST_TENSORS = 8, 30
"""Tensors of the size of q: the least that a run needs, and the most that the published order holds with gradients."""


def run(
    shapes: Sequence[Shape],
    *,
    device: torch.device,
    dtype: torch.dtype,
    out: Path,
    say: Say,
    providers: Sequence[Provider] = PROVIDERS,
    modes: Sequence[str] = MODES,
) -> list[Row]:
    """Check and time providers on shapes; rows go to ``out`` as they come.

    Raises:
        BenchmarkError: a provider's result is wrong (all others have their rows by then), nothing could be measured, or
            ``out`` cannot be used.
        UsageError: ``out`` holds the rows of another benchmark.
    """
    able = present(providers, lambda each: each.missing(device), say)
    runs = [(shape, mode) for shape in shapes for mode in modes if _has_mode(mode, shape, device)]
    if not runs:
        raise BenchmarkError(
            f"Nothing was measured: mode graph needs a GPU, and at most {GRAPH_TOKENS} tokens."
        )
    session = Session("linear_attention", device, dtype, out, say)
    sound: dict[int, list[Provider]] = {}
    for count, (shape, mode) in enumerate(runs, 1):
        say(f"{shape.name}  {mode}: {count} of {len(runs)}")
        if shape.head_dim not in sound:
            sound[shape.head_dim] = [each for each in able if _passes_probe(session, each, shape)]
        _measure(session, shape, mode, sound[shape.head_dim])
    return session.finish()


def _has_mode(mode: str, shape: Shape, device: torch.device) -> bool:
    return mode != "graph" or (device.type == "cuda" and shape.tokens <= GRAPH_TOKENS)


def _passes_probe(session: Session, provider: Provider, shape: Shape) -> bool:
    """False for a wrong result; one that cannot do float32 at all may still do what it is to be timed in."""
    with session.guarded(shape, provider.name, provider.function, PROBE):
        _announce(session, shape, PROBE, provider)
        verdict = probe(provider, shape, session.device)
        if verdict.problem:
            session.reject(shape, provider.name, PROBE, verdict.problem)
            return False
    return True


def _measure(session: Session, shape: Shape, mode: str, providers: Sequence[Provider]) -> None:
    """All providers on one shape in one mode."""
    reason = session.lacks_memory(MOST_TENSORS if session.device.type == "cpu" else INPUTS, shape)
    if reason:
        for provider in providers:
            session.record(shape, provider.name, provider.function, mode, note=reason)
        return
    inputs = draw(shape, session.dtype, session.device)
    verdicts: dict[Provider, Verdict] = {}
    tasks: dict[str, Task] = {}
    for provider in providers:
        with session.guarded(shape, provider.name, provider.function, mode):
            verdict = _admitted(session, shape, mode, provider, inputs)
            if verdict:
                tasks[provider.name] = _task(provider, inputs, mode)
                verdicts[provider] = verdict
    timings = round_robin(tasks, session.device, session.seconds)
    size = shape.elements * session.dtype.itemsize
    for provider, verdict in verdicts.items():
        measured: dict[str, Any] = asdict(timings[provider.name])
        if provider.function == "linear":
            gbps = UNITS[mode] * size / timings[provider.name].median / 1e6
            measured |= {"gbps": gbps, "copy_fraction": gbps / session.ceilings.copy_gbps}
        if mode != "graph":
            measured["peak_mb"] = peak_memory(tasks[provider.name], session.device) / 1e6
        session.record(
            shape,
            provider.name,
            provider.function,
            mode,
            error=verdict.error,
            note=_note(provider),
            **measured,
        )


def _admitted(
    session: Session, shape: Shape, mode: str, provider: Provider, inputs: Inputs
) -> Verdict | None:
    """The verdict on a provider that is to be timed; None for one that is not, which is recorded."""
    reason = provider.unfit(shape, session.dtype)
    if reason:
        session.record(shape, provider.name, provider.function, mode, note=reason)
        return None
    _announce(session, shape, mode, provider)
    verdict = check(provider, inputs, backward="backward" in mode)
    if verdict.problem:
        session.reject(shape, provider.name, mode, verdict.problem)
        return None
    return verdict


def _announce(session: Session, shape: Shape, mode: str, provider: Provider) -> None:
    """Say what keeps the user waiting."""
    if provider.compiles:
        session.say(f"{shape.name}  {mode}  {provider.name}: compiling")


def _task(provider: Provider, inputs: Inputs, mode: str) -> Task:
    """What is timed: of a backward, the forward before it is not."""
    leaves = [x.detach() for x in provider.prepare(inputs.q, inputs.k, inputs.v, inputs.heads)]

    def forward(_: Any = None) -> Tensor:
        with torch.no_grad():
            return provider.run(leaves[0], leaves[1], leaves[2], inputs.heads)

    if mode == "graph":
        forward()
        return graphed(forward)
    if mode == "forward":
        return Task(forward)
    for leaf in leaves:
        leaf.requires_grad_()

    def ahead(_: Any = None) -> Tensor:
        return provider.run(leaves[0], leaves[1], leaves[2], inputs.heads)

    o = ahead()
    do = inputs.do if o.shape == inputs.do.shape else torch.randn_like(o)
    del o

    def back(o: Tensor) -> Any:
        return torch.autograd.grad(o, leaves, do)

    if mode == "backward":
        return Task(back, prepare=ahead)
    return Task(lambda _: back(ahead()))


def _note(provider: Provider) -> str:
    return "another function" if provider.function != "linear" else ""
