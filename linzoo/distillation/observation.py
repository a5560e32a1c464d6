"""Looking at the teacher's attentions at work: their inputs and outputs on noised samples, a layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.batch import Batch, Draws
from linzoo.distillation.noise import Noise
from linzoo.distillation.student import Student

Visit = Callable[[str, MountedAttention, Tensor, Tensor], None]
"""Shown a layer's name, the layer, what it was given and what the teacher's attention made of it, (B, N, C) both."""


class Observation:
    """Forward passes of the teacher over the same noised samples, as often as they are wanted.

    Nothing is kept between two layers, so that memory does not grow with the depth of the UNet or the samples.

    Args:
        student: whose teacher is looked at.
        noise: the diffusion process.
        batches: samples on the student's device.
        seed: of the noise.
    """

    def __init__(self, student: Student, noise: Noise, batches: Sequence[Batch], seed: int) -> None:
        self._student = student
        self._noise = noise
        self._batches = tuple(batches)
        self._seed = seed

    @torch.no_grad()
    def show(self, visit: Visit, timesteps: int, advance: Callable[[], None]) -> None:
        """Show every replaced layer at every sample.

        Args:
            visit: is shown them.
            timesteps: how many each sample is noised at. All timesteps together are spread evenly over the whole range. At
                every other one the caption is left out, since guided sampling asks for both equally.
            advance: called after each forward pass.
        """
        layers = self._student.layers
        hooks = [layer.register_forward_hook(partial(_show, visit, name)) for name, layer in layers.items()]
        try:
            with self._student.teacher():
                for repeat in range(timesteps):
                    self._pass(repeat, timesteps, advance)
        finally:
            for hook in hooks:
                hook.remove()

    def _pass(self, repeat: int, repeats: int, advance: Callable[[], None]) -> None:
        count = sum(map(len, self._batches))
        first = 0
        for batch in self._batches:
            slots = range(first, first + len(batch))
            first += len(batch)
            latents = batch.latents
            drawn = Draws(self._seed, "calibrate", repeat, slots).normal("noise", latents.shape[1:])
            places = torch.tensor(slots)
            part = (repeat + places) % repeats  # of the range: each time through covers all of it
            share = (part + (places + 0.5) / count) / repeats
            times = (share * self._noise.steps).long().to(latents.device)
            noisy = self._noise.add(latents, drawn.to(latents), times)
            captions = batch.unconditional if repeat % 2 else batch.conditioning
            self._student.predict(noisy, times, captions)
            advance()


def _show(visit: Visit, name: str, layer: MountedAttention, inputs: tuple[Any, ...], output: Tensor) -> None:
    visit(name, layer, inputs[0], output)
