"""How alike two pictures are, pixel by pixel and neighbourhood by neighbourhood."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from linzoo.distillation.double import double
from linzoo.validation.metrics.shapes import require_pairs, require_pictures

PSNR_MOST = 100.0
"""PSNR of identical pictures, and the most that any pair has, in dB: the mean of many pairs stays finite."""

_LEVELS = 255.0
_SIGMA = 1.5
_RADIUS = 5
"""Pixels from the middle to the edge of SSIM's Gaussian window: 3.5 standard deviations, rounded."""


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, in dB, at most :data:`PSNR_MOST`.

    ``10 log10(255^2 / MSE)``, with the mean over pixels and channels.

    Args:
        a: pictures, uint8 (B, 3, H, W).
        b: pictures of the same shape.

    Returns:
        float64 (B,).

    Raises:
        MetricError: they are no pictures, or no pairs.
    """
    _require(a, b, 1)
    ratio: Tensor = peak_signal_noise_ratio(
        double(a), double(b), data_range=_LEVELS, reduction="none", dim=(1, 2, 3)
    )
    return ratio.clamp(max=PSNR_MOST)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al. 2004, doi 10.1109/TIP.2003.819861), mean over colour channels.

    As the paper has it: a Gaussian window of standard deviation 1.5 and 11 pixels, K1 = 0.01, K2 = 0.03, variances
    over N. The mean is over those pixels whose whole window lies in the picture, as in scikit-image; a border of 5
    pixels does not count.

    Args:
        a: pictures, uint8 (B, 3, H, W), with sides of at least 11 pixels.
        b: pictures of the same shape.

    Returns:
        float64 (B,), 1 for identical pictures.

    Raises:
        MetricError: they are no pictures, no pairs or too small.
    """
    _require(a, b, 2 * _RADIUS + 1)
    return torch.cat([_ssim(*pair) for pair in zip(a.split(1), b.split(1), strict=True)])


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of one pair, (1,): one at a time, since ten images of float64 are made of it."""
    _, everywhere = structural_similarity_index_measure(
        double(a), double(b), sigma=_SIGMA, data_range=_LEVELS, reduction="none", return_full_image=True
    )
    inside: Tensor = everywhere[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS]
    return inside.mean((1, 2, 3))


def _require(a: Tensor, b: Tensor, least: int) -> None:
    for pictures in (a, b):
        require_pictures(pictures, least)
    require_pairs(a, b)
