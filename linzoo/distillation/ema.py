"""The running average (EMA) of the trained weights, where the device has room for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from linzoo.distillation.recipe import Ema


class WeightAverage:
    """``average = decay * average + (1 - decay) * weights`` after each step, in float32.

    The decay of the first steps is ``(1 + n) / (10 + n)``, as in diffusers' ``EMAModel``, which has no way to keep the
    average on another device than the weights.

    Args:
        parameters: the weights by name.
        settings: decay and device.

    Attributes:
        average: the average by name.
        updates: how many steps it has seen.
    """

    def __init__(self, parameters: Mapping[str, Tensor], settings: Ema) -> None:
        self._parameters = parameters
        self._settings = settings
        self.average = {name: self._copy(value) for name, value in parameters.items()}
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of one more step in."""
        self.updates += 1
        decay = min(self._settings.decay, (1 + self.updates) / (10 + self.updates))
        for name, average in self.average.items():
            average.lerp_(self._parameters[name].detach().to(average.device), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the weights be the average for the length of a ``with`` block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, average in self.average.items():
            weight = self._parameters[name]
            kept = average.clone()
            average.copy_(weight)
            weight.copy_(kept)

    def _copy(self, value: Tensor) -> Tensor:
        device = "cpu" if self._settings.device == "cpu" else value.device
        return value.detach().to(device, copy=True)
