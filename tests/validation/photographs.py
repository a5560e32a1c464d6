"""Real pictures for tests: photographs that ship with scikit-image."""

from __future__ import annotations

import functools

import skimage.data
import torch
from torch import Tensor
from torch.nn import functional as F

NAMES = ("astronaut", "coffee", "chelsea", "rocket")


@functools.cache
def photograph(name: str, side: int) -> Tensor:
    """The square in the middle of a photograph, uint8 (3, side, side)."""
    pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)
    shorter = min(pixels.shape[1:])
    top, left = ((length - shorter) // 2 for length in pixels.shape[1:])
    square = pixels[None, :, top : top + shorter, left : left + shorter].float()
    scaled = F.interpolate(square, (side, side), mode="bilinear", antialias=True)
    return scaled[0].round().to(torch.uint8)


def photographs(side: int) -> Tensor:
    """All of them, uint8 (4, 3, side, side)."""
    return torch.stack([photograph(name, side) for name in NAMES])


def noisy(pictures: Tensor, amount: float, seed: int = 0) -> Tensor:
    """The pictures with Gaussian noise of this many levels."""
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))
    return (pictures + amount * noise).round().clamp(0, 255).to(torch.uint8)
