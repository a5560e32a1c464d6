"""Noisy latents that the student itself comes to, for training on the states that its own sampling visits."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from linzoo.distillation.batch import Conditioning
from linzoo.distillation.noise import Noise, Noised
from linzoo.distillation.student import Student


@torch.no_grad()
def roll_out(
    student: Student, noise: Noise, noised: Noised, conditioning: Conditioning, steps: int
) -> Tensor:
    """Sample with the student (DDIM, arXiv 2010.02502; guidance 1) from pure noise down to each sample's timestep.

    Args:
        student: its linear attentions sample.
        noise: the diffusion process.
        noised: the noise to start from, and the timesteps to come to.
        conditioning: of the samples.
        steps: equal steps that each sample takes, whatever its timestep: that many forward passes.

    Returns:
        Noisy latents at the timesteps of ``noised``.
    """
    latents, first = noised.noise, noise.steps - 1
    ways = torch.linspace(0, 1, steps + 1, device=latents.device)[:, None]
    visited = (first + (noised.timesteps - first) * ways).round().long()
    for here, there in pairwise(visited):
        output = student.predict(latents, here, conditioning)
        clean = noise.to_latents(output, latents, here)
        latents = noise.add(clean, noise.to_noise(output, latents, here), there)
    return latents
