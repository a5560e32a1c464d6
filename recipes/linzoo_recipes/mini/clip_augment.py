"""Changes to a picture that change nothing of what it shows: place, size, tilt, tint and grain."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

SHIFT, SCALE, TILT = 0.1, (0.85, 1.1), 8.0
"""Parts of half a side; times the size; degrees."""
TINT, GRAIN = 0.12, 0.06


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures (B, 3, H, W) in [-1, 1] changed each in its own way; what comes into view is white.

    Everything is drawn from the generator, on the CPU.
    """
    dimmed = (_moved(pixels, generator) + 1) * (1 - TINT * _each(pixels, generator, channels=3)) - 1
    grain = torch.randn(pixels.shape, generator=generator).to(pixels.device)
    return dimmed + GRAIN * _each(pixels, generator) * grain


def _each(pixels: Tensor, generator: torch.Generator, channels: int = 1) -> Tensor:
    """Return a number in [0, 1) for each picture (and channel)."""
    return torch.rand(len(pixels), channels, 1, 1, generator=generator).to(pixels.device)


def _moved(pixels: Tensor, generator: torch.Generator) -> Tensor:
    size, tilt, right, down = torch.rand(4, len(pixels), generator=generator)
    factor = 1 / (SCALE[0] + (SCALE[1] - SCALE[0]) * size)
    angle = math.radians(TILT) * (2 * tilt - 1)
    shift = SHIFT * (2 * torch.stack([right, down], dim=1) - 1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    matrix = torch.cat([factor[:, None, None] * turn, shift[:, :, None]], dim=2).to(pixels.device)
    grid = affine_grid(matrix, list(pixels.shape), align_corners=False)
    return grid_sample(pixels - 1, grid, align_corners=False) + 1
