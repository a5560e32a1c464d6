"""Pictures in the form that a network was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """Scale pictures as Pillow scales floats: bicubic, over as many pixels as shrinking takes; rounded at the end.

    Args:
        pixels: uint8 (B, 3, H, W).
        height: wanted, in pixels.
        width: wanted; proportions are not kept.

    Returns:
        uint8 (B, 3, height, width).
    """
    if pixels.shape[-2:] == (height, width):
        return pixels
    scaled = F.interpolate(
        pixels.float(), (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return scaled.round().clamp(0, 255).to(torch.uint8)


def resize_and_crop(pixels: Tensor, side: int) -> Tensor:
    """Scale pictures so that their shorter side is ``side``, and keep the square in their middle, uint8 (B, 3, side, side)."""
    height, width = pixels.shape[-2:]
    shorter = min(height, width)
    scaled = resize(pixels, height * side // shorter, width * side // shorter)
    top, left = ((length - side) // 2 for length in scaled.shape[-2:])
    return scaled[..., top : top + side, left : left + side]


def square(pixels: Tensor, side: int) -> Tensor:
    """The square in the middle of a picture, uint8 (3, H, W), scaled to ``side`` by Lanczos' filter, uint8 (3, side, side).

    As LinFusion's published evaluation makes the pictures that it compares, drawn and real (its ``src/eval``).
    """
    shorter = min(pixels.shape[-2:])
    top, left = ((length - shorter) // 2 for length in pixels.shape[-2:])
    middle = pixels[:, top : top + shorter, left : left + shorter].permute(1, 2, 0).cpu().numpy()
    scaled = Image.fromarray(middle).resize((side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Map levels 0 to 255 to 0 to 1, take each channel's mean away and divide by its deviation; float32."""
    x = pixels.float() / 255
    return (x - x.new_tensor(mean)[:, None, None]) / x.new_tensor(std)[:, None, None]
