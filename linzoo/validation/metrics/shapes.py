"""What the metrics ask of the tensors that they are given."""

from __future__ import annotations

import torch
from torch import Tensor

from linzoo.validation.metrics.errors import MetricError


def require_pictures(pictures: Tensor, least: int = 1) -> None:
    """Check that these are pictures, uint8 (B, 3, H, W), with sides of at least ``least`` pixels.

    Raises:
        MetricError: they are not.
    """
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3:
        raise MetricError(
            f"pictures must be uint8 (B, 3, H, W), got {pictures.dtype} {tuple(pictures.shape)}"
        )
    if min(pictures.shape[-2:]) < least:
        height, width = pictures.shape[-2:]
        raise MetricError(f"pictures must be at least {least} pixels high and wide, got {width}x{height}")


def require_pairs(a: Tensor, b: Tensor) -> None:
    """Check that there is one of ``b`` for each of ``a``, of the same shape, and that there are any.

    Raises:
        MetricError: there is not.
    """
    if a.shape != b.shape or a.ndim < 2 or not a.numel():
        raise MetricError(f"pairs must have one shape (B, …), got {tuple(a.shape)} and {tuple(b.shape)}")


def require_samples(a: Tensor, b: Tensor, least: int) -> None:
    """Check that these are features of two sets, (N, D) and (M, D), with at least ``least`` samples each.

    Raises:
        MetricError: they are not.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise MetricError(f"features must be (N, D) and (M, D), got {tuple(a.shape)} and {tuple(b.shape)}")
    if min(len(a), len(b)) < least:
        raise MetricError(f"each set needs at least {least} samples, got {len(a)} and {len(b)}")
