"""What a run watches for while it trains: numbers that are not finite, full memory, a sudden slowness."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linzoo.distillation.errors import DistillationError
from linzoo.generate.memory import out_of_memory

_WINDOW = 20
_SLOWER = 3.0


def first_non_finite(module: nn.Module, compute: Callable[[], object]) -> str | None:
    """Name the submodule that gives the first number that is not finite; None where all are.

    Args:
        module: the module whose submodules are watched.
        compute: does the forward passes again.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not found and not all(bool(torch.isfinite(each).all()) for each in _tensors(output)):
                found.append(name)

        return hook

    handles = [each.register_forward_hook(watch(name)) for name, each in module.named_modules()]
    try:
        compute()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


@contextmanager
def explain_memory(advice: Callable[[], str]) -> Iterator[None]:
    """Turn an error about full memory into one that says what lowers it.

    Raises:
        DistillationError: memory ran out; the message ends with ``advice()``.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        raise DistillationError(f"out of memory ({first})\n{advice()}") from error


class SpeedWatch:
    """Notices when steps take three times as long as they did at first.

    Reported: kohya-ss/sd-scripts#3296, 39 s a step for hours, since memory had spilled to the host without a word.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._usual: float | None = None
        self._told = False

    def add(self, seconds: float) -> str | None:
        """Take the time of one step in; return a warning, once."""
        self._recent.append(seconds)
        if len(self._recent) < _WINDOW:
            return None
        now = statistics.median(self._recent)  # a first step that warms up does not count much
        if self._usual is None:
            self._usual = now
        if self._told or now <= _SLOWER * self._usual:
            return None
        self._told = True
        return (
            f"warning: a step takes {now:.2g} s now and took {self._usual:.2g} s at first; look whether something else"
            " uses the device, or its memory spills to the host (then lower micro_batch)"
        )
