"""Noisy latents that the student itself comes to, for training on the states that its own sampling visits."""

from __future__ import annotations

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
        steps: of a whole trajectory, down to a clean picture; a sample takes its part of them, at least one.

    Returns:
        Noisy latents at the timesteps of ``noised``.
    """
    latents, first = noised.noise.clone(), noise.steps - 1
    way = first - noised.timesteps
    counts = (steps * way / first).round().long().clamp(min=1)
    for step in range(int(counts.max())):
        rows = (counts > step).nonzero().flatten()  # those that have not arrived
        here, there = (first - way[rows] * done // counts[rows] for done in (step, step + 1))
        output = student.predict(latents[rows], here, conditioning.rows(rows))
        clean = noise.to_latents(output, latents[rows], here)
        latents[rows] = noise.add(clean, noise.to_noise(output, latents[rows], here), there)
    return latents
