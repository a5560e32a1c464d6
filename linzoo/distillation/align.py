"""Stage 1: each linear attention learns by itself what the teacher's makes of the teacher's own inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from linzoo_kernels.torch_ops import without_autocast
from torch import Tensor

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.batch import Batch, Draws
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.noise import Noise
from linzoo.distillation.objective import relative_error, relative_huber
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.student import Student

_LOSSES = {"relative_mse": relative_error, "huber": relative_huber}


class AlignStage:
    """The loss of ``recipe.align``, and its gradients.

    One forward pass of the teacher without gradients; as each replaced attention is reached, the linear one answers for
    the same input, and its gradients are computed at once. Nothing of a layer is kept, so that the peak of memory is the
    teacher's forward pass and one layer, whatever the depth of the UNet.

    Raises:
        DistillationError: the recipe has no such stage.
    """

    name = "align"

    def __init__(self, student: Student, noise: Noise, recipe: Recipe) -> None:
        if recipe.align is None:
            raise DistillationError(f"The recipe {recipe.name!r} has no stage 'align'; add one to it.")
        self._student = student
        self._noise = noise
        self._loss = _LOSSES[recipe.align.loss]
        self._caption_dropout = recipe.data.caption_dropout

    def backward(self, batch: Batch, draws: Draws, share: float) -> dict[str, Tensor]:
        """Compute the loss of a part of a step's batch, and add its gradients to the weights' ``grad``.

        Args:
            batch: the part's samples.
            draws: their random numbers.
            share: the part of the whole batch that they are; gradients of all parts add up to that of the mean.

        Returns:
            ``loss``: the mean over samples and layers, detached, on the samples' device.
        """
        noised = self._noise.draw(batch.latents, draws)
        captions = batch.with_captions_dropped(self._caption_dropout, draws)
        layers = self._student.layers
        losses: list[Tensor] = []
        regress = partial(self._regress, losses, share / len(layers))
        hooks = [layer.register_forward_hook(regress) for layer in layers.values()]
        try:
            with torch.no_grad(), self._student.teacher():
                self._student.predict(noised.latents, noised.timesteps, captions)
        finally:
            for hook in hooks:
                hook.remove()
        return {"loss": torch.stack(losses).mean()}

    def _regress(
        self,
        losses: list[Tensor],
        share: float,
        layer: MountedAttention,
        inputs: tuple[Any, ...],
        target: Tensor,
    ) -> None:
        """A forward hook on the teacher's attention; the linear one is computed by name, whichever stands there."""
        with torch.enable_grad(), without_autocast(target.device.type):
            with self._student.autocast():
                output = layer.mix_and_project(inputs[0], None)
            loss = self._loss(output, target).mean()
            (loss * share).backward()  # outside autocast, as it wants
        losses.append(loss.detach())
