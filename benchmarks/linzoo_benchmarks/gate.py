"""Nothing is timed that computes something else: each provider against the reference in float64 first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from linzoo_kernels import reference
from torch import Tensor

from linzoo_benchmarks.providers import Provider
from linzoo_benchmarks.shapes import Shape

TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 6e-2}
"""How far a result may be off, as ||result - reference|| / ||reference||.

Loose in half precision, where the published order itself is off by a percent: this gate tells a right function from a
wrong one, how exact it is stands in the rows. In float32 it is tight enough to see another epsilon.
"""


@dataclass(frozen=True)
class Inputs:
    """q, k, v and the gradient of o, each (B, L, H*d)."""

    q: Tensor
    k: Tensor
    v: Tensor
    do: Tensor
    heads: int


@dataclass(frozen=True)
class Verdict:
    """How far off a provider is; ``problem`` says what is wrong, or is None."""

    error: float | None
    problem: str | None


def draw(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Fresh noise. In float32 and float64 every second query is far below zero, where epsilon matters."""
    size = (shape.batch, shape.tokens, shape.channels)
    q, k, v, do = (torch.randn(size, device=device, dtype=dtype) for _ in range(4))
    if dtype in (torch.float32, torch.float64):
        q[:, ::2] -= 4
        k -= 2
    return Inputs(q, k, v, do, shape.heads)


def check(provider: Provider, inputs: Inputs, *, backward: bool) -> Verdict:
    """Run a provider on poisoned memory and compare: o, or all three gradients.

    A provider of another function is only checked for the shape of its result and for numbers.
    """
    q, k, v = (x.detach().requires_grad_(backward) for x in (inputs.q, inputs.k, inputs.v))
    with poisoned(), torch.set_grad_enabled(backward):
        prepared = provider.prepare(q, k, v, inputs.heads)
        o = provider.finish(provider.run(*prepared, inputs.heads))
        if o.shape != inputs.v.shape:
            return Verdict(None, f"its result is {tuple(o.shape)}, not {tuple(inputs.v.shape)}")
        results = torch.autograd.grad(o, (q, k, v), inputs.do) if backward else (o,)
    if not all(bool(x.isfinite().all()) for x in results):
        return Verdict(None, "its result has NaN or infinity")
    if provider.function != "linear":
        return Verdict(None, None)
    error = max(_errors(results, inputs, backward))
    tolerance = TOLERANCES[inputs.q.dtype]
    if error > tolerance:
        return Verdict(error, f"it is off by {error:.1e} ({inputs.q.dtype}: at most {tolerance:.0e})")
    return Verdict(error, None)


def probe(provider: Provider, shape: Shape, device: torch.device) -> Verdict:
    """A check on few tokens in float32: half precision would hide a wrong constant."""
    small = Shape("probe", 2, 97, 2, shape.head_dim)
    if provider.unfit(small, torch.float32):
        return Verdict(None, None)
    return check(provider, draw(small, torch.float32, device), backward=False)


def _errors(results: tuple[Tensor, ...], inputs: Inputs, backward: bool) -> list[float]:
    """Relative error of each result; the reference goes head by head, which float64 has room for."""
    off, size = torch.zeros(2, len(results), dtype=torch.float64)
    width = inputs.q.shape[-1] // inputs.heads
    for batch in range(inputs.q.shape[0]):
        for head in range(inputs.heads):
            part = (slice(batch, batch + 1), slice(None), slice(head * width, (head + 1) * width))
            expected = _reference(inputs, part, backward)
            for index, (result, wanted) in enumerate(zip(results, expected, strict=True)):
                off[index] += (result[part].double() - wanted).square().sum().cpu()
                size[index] += wanted.square().sum().cpu()
    return [float(each) for each in (off / size).sqrt()]


def _reference(inputs: Inputs, part: tuple[slice, slice, slice], backward: bool) -> tuple[Tensor, ...]:
    q, k, v, do = (x[part].detach().double() for x in (inputs.q, inputs.k, inputs.v, inputs.do))
    if not backward:
        return (reference.linear_attention(q, k, v, 1),)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        return torch.autograd.grad(reference.linear_attention(q, k, v, 1), leaves, do)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory that Python code asks torch for is full of NaN: what nobody writes is seen."""
    makers: tuple[tuple[Any, str], ...] = ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"))
    originals = [(owner, name, getattr(owner, name)) for owner, name in makers]
    for owner, name, make in originals:
        setattr(owner, name, _filling(make))
    try:
        yield
    finally:
        for owner, name, make in originals:
            setattr(owner, name, make)


def _filling(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def filled(*args: object, **kwargs: object) -> Tensor:
        made = make(*args, **kwargs)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    return filled
