"""``linzoo bench layer``: whole self-attention layers, each checked before it is timed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from linzoo_kernels import use_backend
from torch import Tensor

from linzoo_benchmarks.gate import TOLERANCES, Verdict
from linzoo_benchmarks.kernels import INPUTS, MOST_TENSORS
from linzoo_benchmarks.layers import FORMS, Form, Layer, Weights
from linzoo_benchmarks.official import OfficialLayer, random_weights
from linzoo_benchmarks.providers import softmax_limit
from linzoo_benchmarks.rows import Row
from linzoo_benchmarks.session import Say, Session, present
from linzoo_benchmarks.shapes import Shape
from linzoo_benchmarks.timing import Task, peak_memory, round_robin
from linzoo_benchmarks.traffic import Traffic

MODE = "forward"
CHECKED_TOKENS = 333
"""How many tokens the result is compared on: the reference is in float64. Odd, so that no block divides it."""


def run(
    shapes: Sequence[Shape],
    *,
    device: torch.device,
    dtype: torch.dtype,
    out: Path,
    say: Say,
    forms: Sequence[Form] = FORMS,
) -> list[Row]:
    """Check and time a layer in several forms; rows go to ``out`` as they come.

    Raises:
        BenchmarkError: a form's result is wrong (all others have their rows by then), nothing could be measured, or
            ``out`` cannot be used.
        UsageError: ``out`` holds the rows of another benchmark.
    """
    able = present(forms, lambda each: each.missing(), say)
    session = Session("layer", device, dtype, out, say)
    for count, shape in enumerate(shapes, 1):
        say(f"{shape.name}: {count} of {len(shapes)}")
        with torch.no_grad():
            _measure(session, shape, able)
    return session.finish()


def check(layer: Layer, form: Form, weights: Weights, shape: Shape, x: Tensor) -> Verdict:
    """Compare a layer with the official one in float64, on the weights as the dtype rounds them."""
    y = layer(x)
    if not bool(y.isfinite().all()):
        return Verdict(None, "its result has NaN or infinity")
    if form.function != "linear":
        return Verdict(None, None)
    rounded = {name: weight.to(x.dtype) for name, weight in weights.items()}
    expected = OfficialLayer(rounded, shape.heads).to(x.device, torch.float64)(x.double())
    error = float((y.double() - expected).norm() / expected.norm())
    tolerance = TOLERANCES[x.dtype]
    wrong = f"it is off by {error:.1e} ({x.dtype}: at most {tolerance:.0e})"
    return Verdict(error, wrong if error > tolerance else None)


def _measure(session: Session, shape: Shape, forms: Sequence[Form]) -> None:
    """All forms on one shape."""
    reason = session.lacks_memory(MOST_TENSORS if session.device.type == "cpu" else INPUTS, shape)
    weights = random_weights(shape.channels)
    errors: dict[Form, float | None] = {}
    tasks: dict[str, Task] = {}
    x = _tokens(session, shape, 1 if reason else shape.tokens)
    for form in forms:
        left_out = reason or _too_long(form, shape)
        if left_out:
            session.record(shape, form.name, form.function, MODE, note=left_out)
            continue
        with session.guarded(shape, form.name, form.function, MODE):
            layer = form.on(weights, shape, session.device, session.dtype)
            verdict = check(layer, form, weights, shape, _tokens(session, shape, CHECKED_TOKENS))
            if verdict.problem:
                session.reject(shape, form.name, MODE, verdict.problem)
                continue
            layer(x)
            tasks[form.name] = _task(layer, x)
            errors[form] = verdict.error
    timings = round_robin(tasks, session.device, session.seconds)
    for form, error in errors.items():
        measured = asdict(timings[form.name]) | _movements(session, shape, form, weights, tasks[form.name], x)
        session.record(shape, form.name, form.function, MODE, error=error, **measured)


def _tokens(session: Session, shape: Shape, count: int) -> Tensor:
    return torch.randn(shape.batch, count, shape.channels, device=session.device, dtype=session.dtype)


def _task(layer: Layer, x: Tensor) -> Task:
    return Task(lambda _: layer(x))


def _too_long(form: Form, shape: Shape) -> str | None:
    limit = softmax_limit()
    return f"more than {limit} tokens" if form.function == "softmax" and shape.tokens > limit else None


def _movements(
    session: Session, shape: Shape, form: Form, weights: Weights, task: Task, x: Tensor
) -> dict[str, Any]:
    """Memory of one call, and the bytes and launches of one on a GPU, whatever device this is."""
    call: Callable[[], Any] = task.once
    if form.function == "linear":
        nothing = x.to("meta")  # there operations are only counted
        layer = form.on(weights, shape, nothing.device, session.dtype)
        call = functools.partial(layer, nothing)
    with use_backend("triton"), Traffic() as traffic:
        call()
    peak = peak_memory(task, session.device)
    return {"peak_mb": peak / 1e6, "units": traffic.units(x), "launches": traffic.launches}
