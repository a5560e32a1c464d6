"""The diffusion process that a teacher was trained on: noise, targets, timesteps and their weights."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from linzoo.distillation.batch import Draws
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.recipe import Timesteps

TRAJECTORY_STEPS = 25
"""Sampling steps whose timesteps ``trajectory`` draws from."""


@dataclass(frozen=True)
class Noised:
    """What a UNet is given for a batch's latents.

    Attributes:
        noise: (B, 4, height / 8, width / 8), standard normal.
        latents: the noisy latents, of the same shape.
        timesteps: (B,).
    """

    noise: Tensor
    latents: Tensor
    timesteps: Tensor


class Noise:
    """How noise is added to latents, and what a UNet's output says of them.

    Any scheduler of diffusers over discrete timesteps will do: its betas and its prediction type count, not its sampler.

    Args:
        scheduler: the pipeline's.
        settings: which timesteps are trained on and how much each counts.

    Attributes:
        prediction_type: ``epsilon``, ``v_prediction`` or ``sample``.
        steps: number of timesteps, 1000.

    Raises:
        DistillationError: the scheduler's prediction type is unknown, or cannot go with its betas.
    """

    def __init__(self, scheduler: Any, settings: Timesteps | None = None) -> None:
        self.settings = settings or Timesteps()
        self._scheduler = DDIMScheduler.from_config(scheduler.config)
        self.prediction_type: str = self._scheduler.config.prediction_type
        self.steps: int = self._scheduler.config.num_train_timesteps
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise DistillationError(
                f"The scheduler's prediction_type is {self.prediction_type!r}; distillation knows epsilon, v_prediction "
                "and sample. Correct scheduler_config.json of the teacher."
            )
        if self.prediction_type == "epsilon" and not self._scheduler.alphas_cumprod[-1]:
            raise DistillationError(
                "The teacher's scheduler ends in pure noise (rescale_betas_zero_snr), where a prediction of the noise says "
                "nothing of the image: such a teacher predicts v. Correct prediction_type or rescale_betas_zero_snr in "
                "scheduler_config.json."
            )
        self._visited = _timesteps_of(scheduler) if self.settings.sampling == "trajectory" else None

    def draw(self, latents: Tensor, draws: Draws) -> Noised:
        """Draw timesteps and noise for clean latents, and add it."""
        noise = draws.normal("noise", latents.shape[1:]).to(latents)
        timesteps = self.timesteps(draws).to(latents.device)
        return Noised(noise, self.add(latents, noise, timesteps), timesteps)

    def timesteps(self, draws: Draws) -> Tensor:
        """Timesteps to train on, (B,), drawn as the settings say.

        ``logit_normal`` is the density of the Stable Diffusion 3 paper (arXiv 2403.03206, section 3.1) at 0 and 1.
        """
        if self._visited is not None:
            place = draws.uniform("timesteps") * len(self._visited)
            return self._visited[place.long()]
        if self.settings.sampling == "logit_normal":
            share = draws.normal("timesteps", ()).sigmoid()
        else:
            share = draws.uniform("timesteps")
        return (share * self.steps).long().clamp(max=self.steps - 1)

    def add(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents, sqrt(a) x + sqrt(1 - a) n with a of each sample's timestep."""
        noisy: Tensor = self._scheduler.add_noise(latents, noise, timesteps)
        return noisy

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet was trained to put out: the noise, v (arXiv 2202.00512, appendix D) or the latents."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        velocity: Tensor = self._scheduler.get_velocity(latents, noise, timesteps)
        return velocity

    def weights(self, timesteps: Tensor) -> Tensor | None:
        """How much each sample's error counts, (B,); None for all alike.

        Min-SNR (arXiv 2303.09556): min(SNR, gamma) on the error of the latents, which is that over SNR for a predicted
        noise and over SNR + 1 for v.
        """
        if self.settings.weighting == "none":
            return None
        snr: Tensor = compute_snr(self._scheduler, timesteps)
        clamped = snr.clamp(max=self.settings.gamma)
        if self.prediction_type == "epsilon":
            return clamped / snr
        return clamped / (snr + 1) if self.prediction_type == "v_prediction" else clamped

    def to_latents(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents that the UNet's ``output`` for ``noisy`` amounts to."""
        signal, sigma = self._scales(noisy, timesteps)
        if self.prediction_type == "epsilon":
            return (noisy - sigma * output) / signal
        return output if self.prediction_type == "sample" else signal * noisy - sigma * output

    def to_noise(self, output: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The noise that the UNet's ``output`` for ``noisy`` amounts to."""
        signal, sigma = self._scales(noisy, timesteps)
        if self.prediction_type == "sample":
            return (noisy - signal * output) / sigma
        return output if self.prediction_type == "epsilon" else signal * output + sigma * noisy

    def _scales(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The shares of latents and noise in noisy latents, (B, 1, 1, 1) each."""
        share = self._scheduler.alphas_cumprod.to(like)[timesteps.to(like.device)].view(-1, 1, 1, 1)
        return share.sqrt(), (1 - share).sqrt()


def _timesteps_of(scheduler: Any) -> Tensor:
    """The timesteps that a sampler visits, each once."""
    sampler = copy.deepcopy(scheduler)
    sampler.set_timesteps(TRAJECTORY_STEPS)
    visited: Tensor = torch.unique(sampler.timesteps.round().long())
    return visited
