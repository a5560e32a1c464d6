"""How much a picture repeats itself: what models do when they draw larger than they were trained to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from linzoo.distillation.double import double
from linzoo.validation.metrics.errors import MetricError
from linzoo.validation.metrics.shapes import require_pictures

_CELLS = 64
"""Cells that the native size is averaged to: objects and their parts are left, grain and fine texture are not."""
_NEAREST = 1 / 4
"""The smallest shift that counts, in native sizes. Nearer, a thing is like its own parts."""
_DETAIL = 1 / 7
"""Side of the neighbourhood whose mean is taken away, in native sizes."""
_FAINT = 1.0
"""Detail that is below this many of 255 levels is none: it is what a smooth picture is rounded by, which is regular."""
_STEPS = 32
"""Points on the way to a shift at which the likeness is looked at."""
_SMALLEST = 16
_LUMA = (0.299, 0.587, 0.114)


def repetition(pictures: Tensor, native: int) -> Tensor:
    """Score how much each picture repeats itself, at shifts of a quarter of the native size or more.

    1. Luminance is averaged to 64 cells a native size, and its local mean taken away.
    2. The picture is compared with itself under every shift up to half of its width and height, by normalised
       correlation of the two parts that come to lie on each other (``_likeness``).
    3. What counts is how far a shift stands out: its likeness less the lowest on the straight way to it from no shift.
       A horizon is like itself at every shift along it and stands out at none; a face beside the same face does.
    4. The score is that of the shift that stands out most.

    It is 1 for a picture that is tiled of one, and for stripes: it does not know what is meant. It is 0 for one without
    detail. Photographs at twice the native size have 0.05 to 0.4, not 0, since the best of many shifts fits a little by
    chance; the more so in small pictures, so compare pictures of one size. Neither brightness nor contrast count. A
    picture that has fallen apart scores low too: this is one of several figures, not a quality.

    Args:
        pictures: uint8 (B, 3, H, W), with sides of at least the native size.
        native: pixels of a side that the model was trained at, at least 16.

    Returns:
        float64 (B,), between 0 and 1.

    Raises:
        MetricError: they are no pictures, or a size is too small.
    """
    if native < _SMALLEST:
        raise MetricError(f"the native size must be at least {_SMALLEST} pixels, got {native}")
    require_pictures(pictures, native)
    return torch.stack([_score(picture, native) for picture in pictures])


def _score(picture: Tensor, native: int) -> Tensor:
    """The score of one picture, uint8 (3, H, W)."""
    pixels = max(1, native // _CELLS)
    cells = native // pixels
    levels = double(picture)
    luma = torch.einsum("chw,c->hw", levels, levels.new_tensor(_LUMA))
    averaged = F.avg_pool2d(luma[None], pixels)[0]
    detail = _detail(averaged, 2 * round(_DETAIL * cells / 2) + 1)
    if detail.square().mean() < _FAINT**2:
        return detail.new_zeros(())
    dy, dx = (torch.arange(-(side // 2), side // 2 + 1, device=detail.device) for side in averaged.shape)
    likeness = _likeness(detail)[dy[:, None], dx]  # negative shifts lie at the end, as indices from there
    outstanding = likeness - _lowest_on_the_way(likeness).clamp(min=0)
    far = dy[:, None].square() + dx.square() >= (_NEAREST * cells) ** 2
    best: Tensor = outstanding[far].max().clamp(0, 1)
    return best


def _detail(x: Tensor, side: int) -> Tensor:
    """What is left of (H, W) without the mean over ``side`` x ``side``, where all of that lies in the picture."""
    margin = side // 2
    detail: Tensor = x[margin:-margin, margin:-margin] - F.avg_pool2d(x[None], side, stride=1)[0]
    return detail


def _likeness(x: Tensor) -> Tensor:
    """Correlation of (H, W) with itself under every shift, (2 H, 2 W), -1 to 1.

    The sum of products of the two parts that come to lie on each other, over the mean of their energies: 1 if they are
    the same and less if only one holds anything. A part of less than half the picture's mean energy counts as if it
    had that much, so that nothing is made of a background's faint pattern.
    """
    ones = torch.ones_like(x)
    energy = _correlate(x.square(), ones)
    mirrored = energy.flip(0, 1).roll((1, 1), (0, 1))  # of the other part: the same at the opposite shift
    least = _correlate(ones, ones) * x.square().mean() / 2
    return _correlate(x, x) / torch.maximum((energy + mirrored) / 2, least)


def _correlate(a: Tensor, b: Tensor) -> Tensor:
    """Sum over p of a(p + shift) b(p), by shift, (2 H, 2 W)."""
    size = [2 * side for side in a.shape]
    spectrum = torch.fft.rfft2(a, s=size) * torch.fft.rfft2(b, s=size).conj()
    by_shift: Tensor = torch.fft.irfft2(spectrum, s=size)
    return by_shift


def _lowest_on_the_way(likeness: Tensor) -> Tensor:
    """For each shift, the lowest likeness on the straight line from no shift, which is in the middle, to it."""
    y, x = (
        torch.linspace(-1, 1, side, dtype=likeness.dtype, device=likeness.device) for side in likeness.shape
    )
    shifts = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1)[None]
    lowest = likeness
    for step in range(1, _STEPS):
        there = F.grid_sample(likeness[None, None], shifts * (step / _STEPS), align_corners=True)[0, 0]
        lowest = torch.minimum(lowest, there)
    return lowest
