"""How far two sets of pictures are apart, as features of a network tell: Fréchet distance, KID and CMMD."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchmetrics.image.kid import poly_mmd

from linzoo.distillation.double import double
from linzoo.validation.metrics.errors import MetricError
from linzoo.validation.metrics.shapes import require_samples

_CMMD_SIGMA = 10
_CMMD_SCALE = 1000
_BLOCK = 256
"""Rows of the kernel matrix that CMMD has in memory at a time."""


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets of features, each taken for a Gaussian; FID with Inception's (arXiv 1706.08500).

    ``|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))`` with unbiased covariances. With centred features
    ``X / sqrt(N - 1)`` the last trace is the sum of the singular values of ``X_a X_b^T``. No covariance is made and no
    root of a singular matrix taken, which costs digits where samples are fewer than features.

    Few samples bias it upward: compare only what was measured on as many.

    Args:
        a: features, (N, D).
        b: features, (M, D).

    Raises:
        MetricError: they do not fit together, or a set has fewer than two samples.
    """
    require_samples(a, b, 2)
    (mean_a, x_a), (mean_b, x_b) = _moments(a), _moments(b)
    root = torch.linalg.svdvals(_triangle(x_a) @ _triangle(x_b).T).sum()
    means = (mean_a - mean_b).square().sum()
    distance = float(means + x_a.square().sum() + x_b.square().sum() - 2 * root)
    return max(0.0, distance)  # rounding makes -1e-13 of a set and itself


def kid(
    a: Tensor, b: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance of two sets of features (KID, arXiv 1801.01401): unbiased, thus fit for few pictures.

    The squared maximum mean discrepancy under the kernel ``(x y / D + 1)^3``, on random subsets.

    Args:
        a: features, (N, D).
        b: features, (M, D).
        subsets: how many pairs of subsets are drawn.
        subset_size: samples of a subset; no more are taken than the smaller set has. Where both sets are no larger, the one
            subset of each is all of it.
        seed: of the draws.

    Returns:
        Mean and standard deviation over the subsets. The mean may be below zero for sets that are alike.

    Raises:
        MetricError: they do not fit together, or a set or a subset has fewer than two samples.
    """
    require_samples(a, b, 2)
    size = min(subset_size, len(a), len(b))
    if size < 2 or subsets < 1:
        raise MetricError(
            f"KID needs a subset or more, of two samples or more; got {subsets} of {subset_size}"
        )
    if size == len(a) == len(b):
        subsets = 1
    generator = torch.Generator().manual_seed(seed)
    x, y = double(a), double(b)
    found = torch.stack(
        [poly_mmd(_draw(x, size, generator), _draw(y, size, generator)) for _ in range(subsets)]
    )
    return float(found.mean()), float(found.std(correction=0))


def cmmd(a: Tensor, b: Tensor) -> float:
    """CMMD of two sets of CLIP embeddings (arXiv 2401.09603): 1000 times a squared maximum mean discrepancy.

    The kernel is ``exp(-|x - y|^2 / (2 sigma^2))`` with sigma = 10 on embeddings of unit length, and the estimate the
    biased one with a set's samples compared with themselves too, as in the published code. Nothing is assumed of the
    distributions; figures of different encoders cannot be compared.

    Args:
        a: embeddings, (N, D), of any length. The published figures are of those of CLIP ViT-L/14 at 336 px.
        b: embeddings, (M, D).

    Raises:
        MetricError: they do not fit together, or a set is empty.
    """
    require_samples(a, b, 1)
    x, y = (F.normalize(double(each)) for each in (a, b))
    return _CMMD_SCALE * (_mean_kernel(x, x) + _mean_kernel(y, y) - 2 * _mean_kernel(x, y))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the centred features over sqrt(N - 1), in float64."""
    x = double(features)
    mean = x.mean(0)
    return mean, (x - mean) / (len(x) - 1) ** 0.5


def _triangle(x: Tensor) -> Tensor:
    """R of ``x = Q R``: min(N, D) rows, and the same singular values in every product from the right."""
    triangle: Tensor = torch.linalg.qr(x, mode="r").R
    return triangle


def _draw(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]


def _mean_kernel(x: Tensor, y: Tensor) -> float:
    """Mean of the Gaussian kernel over all pairs of unit vectors, whose squared distance is ``2 - 2 x y``."""
    gamma = 1 / (2 * _CMMD_SIGMA**2)
    total = sum((gamma * (2 * rows @ y.T - 2)).exp().sum() for rows in x.split(_BLOCK))
    return float(total) / (len(x) * len(y))
