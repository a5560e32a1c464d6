"""Stage 2: the student learns end to end, all its attentions at once, to put out what the teacher puts out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from linzoo.distillation.batch import Batch, Conditioning, Draws
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.noise import Noise
from linzoo.distillation.objective import feature_loss, guided_loss, mean_square, weight_at
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.rollout import roll_out
from linzoo.distillation.student import Student


@dataclass(frozen=True)
class _Inputs:
    """What teacher and student are given in a step.

    ``target`` is the output that the data say is right, None where they do not; ``scale`` is that of a guided step, whose
    ``conditioning`` has the unconditional rows behind the others.
    """

    noisy: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    target: Tensor | None
    scale: float | None

    def rows(self) -> tuple[Tensor, Tensor]:
        """Noisy latents and timesteps for each row of ``conditioning``."""
        if self.scale is None:
            return self.noisy, self.timesteps
        return torch.cat([self.noisy] * 2), torch.cat([self.timesteps] * 2)


@dataclass(frozen=True)
class _Outputs:
    output: Tensor
    features: dict[str, Tensor]


class DistillStage:
    """The losses of ``recipe.distill``, and their gradients.

    With the weights of the recipe, the sum of: ``noise``, the diffusion loss; ``kd``, the distance of the outputs;
    ``features``, that of the replaced attentions' outputs. A share of the steps, the same for all processes, is guided:
    one forward pass over the samples with their captions and with none, where half of the weight of ``kd``, now of both
    outputs, goes to the distance of the guided output at a drawn scale (``guided``). A share is on-policy: noisy latents
    come from the student's own sampling, about which the data say nothing, so that ``noise`` is left out.

    Raises:
        DistillationError: the recipe has no such stage.
    """

    name = "distill"

    def __init__(self, student: Student, noise: Noise, recipe: Recipe) -> None:
        if recipe.distill is None:
            raise DistillationError(f"The recipe {recipe.name!r} has no stage 'distill'; add one to it.")
        self._student = student
        self._noise = noise
        self._settings = recipe.distill
        self._caption_dropout = recipe.data.caption_dropout

    def backward(self, batch: Batch, draws: Draws, share: float) -> dict[str, Tensor]:
        """Compute the losses of a part of a step's batch, and add their gradients to the weights' ``grad``.

        Args:
            batch: the part's samples.
            draws: their random numbers; its step says how far the weights' schedules have come.
            share: the part of the whole batch that they are; gradients of all parts add up to that of the mean.

        Returns:
            Means over the samples of the terms that have a weight now, without it, and ``kd`` always; ``loss`` is what
            they sum up to with their weights. Detached, on the samples' device.
        """
        inputs = self._inputs(batch, draws)
        weights = self._weights(draws.step / max(self._settings.steps - 1, 1), inputs)
        with_features = "features" in weights
        with torch.no_grad(), self._student.teacher():
            teacher = self._predict(inputs, with_features)
        student = self._predict(inputs, with_features)
        terms = self._terms(inputs, student, teacher, weights)
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        (loss * share).backward()
        return {name: term.detach() for name, term in {"loss": loss, **terms}.items()}

    def _inputs(self, batch: Batch, draws: Draws) -> _Inputs:
        scale = self._guidance(draws)
        noised = self._noise.draw(batch.latents, draws)
        captions = (
            batch.with_captions_dropped(self._caption_dropout, draws) if scale is None else batch.conditioning
        )
        noisy, target = noised.latents, None
        on_policy = self._settings.on_policy
        if on_policy is not None and draws.shared("on-policy") < on_policy.share:
            noisy = roll_out(self._student, self._noise, noised, captions, on_policy.steps)
        else:
            target = self._noise.target(batch.latents, noised.noise, noised.timesteps)
        conditioning = captions if scale is None else captions.cat(batch.unconditional)
        return _Inputs(noisy, noised.timesteps, conditioning, target, scale)

    def _guidance(self, draws: Draws) -> float | None:
        """The scale of this step; None where it is not guided."""
        guided = self._settings.loss.guided
        if guided is None or draws.shared("guided") >= guided.share:
            return None
        low, high = guided.scale
        return low + (high - low) * draws.shared("scale")

    def _weights(self, progress: float, inputs: _Inputs) -> dict[str, float]:
        """The weight of each term that counts in this step."""
        losses = self._settings.loss
        kd = weight_at(losses.kd, progress)
        # On mini, halves did better than either alone in a guided step, in KD and in guided KD (150 steps, one seed).
        weights = {"kd": kd} if inputs.scale is None else {"kd": kd / 2, "guided": kd / 2}
        if inputs.target is not None:
            weights["noise"] = weight_at(losses.noise, progress)
        if losses.features is not None:
            weights["features"] = weight_at(losses.features.weight, progress)
        return {name: weight for name, weight in weights.items() if weight or name == "kd"}

    def _predict(self, inputs: _Inputs, with_features: bool) -> _Outputs:
        with contextlib.ExitStack() as stack:
            features = stack.enter_context(self._student.features()) if with_features else {}
            output = self._student.predict(*inputs.rows(), inputs.conditioning)
        return _Outputs(output, features)

    def _terms(
        self, inputs: _Inputs, student: _Outputs, teacher: _Outputs, weights: dict[str, float]
    ) -> dict[str, Tensor]:
        count = len(inputs.noisy)
        importance = self._noise.weights(inputs.timesteps)

        def mean(losses: Tensor) -> Tensor:
            return losses.mean() if importance is None else (losses * importance).mean()

        by_row = mean_square(student.output - teacher.output)
        terms = {"kd": mean(by_row.view(-1, count).mean(0))}
        if inputs.scale is not None:
            terms["guided"] = mean(guided_loss(student.output, teacher.output, inputs.scale))
        if "noise" in weights and inputs.target is not None:
            terms["noise"] = mean(mean_square(student.output[:count] - inputs.target))
        if "features" in weights and self._settings.loss.features is not None:
            normalize = self._settings.loss.features.normalize
            terms["features"] = feature_loss(student.features, teacher.features, normalize=normalize).mean()
        return terms
