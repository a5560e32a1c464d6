"""Queries and keys along pairs of opposed directions, shifted: positive features of softmax without training.

A head looks along the D / 2 directions u of queries and w of keys that say most of the teacher's scores q . k, and along
their opposites, all scaled by s and shifted by -b. Below 0 the feature ``elu(x) + 1`` is exp, so that the similarity of
tokens x and y is, up to a factor that normalisation takes out, a sum of ``exp(s u.x + s w.y) + exp(-s u.x - s w.y)``.
These are the hyperbolic positive features of Performer (arXiv 2009.14794, lemma 1), with directions from the data in place
of random ones. The two terms of a pair sum to 2 at least, so that before normalisation, where attention adds eps = 1e-4, the
weights of a row sum to ``D exp(-2 b)`` at least for heads of D channels, at any number of tokens: 0.01 for D = 32 and b = 4,
2e-4 for b = 6. (Above 0 features are less than exp, but there they are large.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.double import double

_RANK = 1e-6
"""Variance, by the largest, below which the tokens do not vary along a direction."""


class Moments:
    """Mean and covariance of a layer's tokens, summed up in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, hidden_states: Tensor) -> None:
        """Take in tokens, (B, N, C)."""
        rows = double(hidden_states.flatten(0, 1))
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._products = self._products + rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """Mean token, (C,)."""
        return torch.as_tensor(self._sum) / self._count

    @property
    def covariance(self) -> Tensor:
        """(C, C)."""
        mean = self.mean
        return torch.as_tensor(self._products) / self._count - torch.outer(mean, mean)


class PairedDirections:
    """The directions along which a layer's heads look in the ``paired`` basis, at scale 1, and how a shift is expressed.

    Layer normalisation leaves one direction along which tokens never vary. A bias of the branch moves all tokens along it,
    and weights along it turn that into a shift of every channel; ``to_q`` and ``to_k`` need no bias for it.

    Args:
        layer: a layer of a student, with the teacher's weights.
        moments: of the teacher's inputs to it.

    Attributes:
        q: weights of the queries, (C, C), float64.
        k: weights of the keys.
        still: unit vector of the direction along which tokens vary least, (C,).
        bias: how far the branch moves tokens along it.
        reach: where all tokens are along it then.
    """

    def __init__(self, layer: MountedAttention, moments: Moments) -> None:
        variances, axes = torch.linalg.eigh(moments.covariance)
        varies = variances > _RANK * variances[-1]
        spread = variances.clamp(min=0).sqrt()
        root = axes * torch.where(varies, spread, 0)  # root @ root.T is the covariance
        inverse = axes * torch.where(varies, 1 / spread, 0)
        pairs = [
            _directions(root.T @ q.T, root.T @ k.T)
            for q, k in zip(_teacher_heads(layer, "q"), _teacher_heads(layer, "k"), strict=True)
        ]
        self.q = torch.cat([(inverse @ q).T for q, _ in pairs])
        self.k = torch.cat([(inverse @ k).T for _, k in pairs])
        still = axes[:, 0]
        place = still @ moments.mean
        self.still = -still if place < 0 else still
        self.reach = math.sqrt(len(still))  # as long as a normalised token is
        self.bias = self.reach - abs(float(place))

    def write(self, layer: Any, scales: Tensor, shifts: Tensor) -> None:
        """Give a layer these directions, each row with its scale and shift, (C, 1) both."""
        for directions, to_x, branch in (
            (self.q, layer.to_q, layer.to_q_),
            (self.k, layer.to_k, layer.to_k_),
        ):
            like = to_x.weight
            to_x.weight.copy_(scales * directions.to(like) - shifts * self.still.to(like) / self.reach)
            branch[-1].weight.zero_()
            branch[-1].bias.copy_(self.bias * self.still)


def _directions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The half of a head's directions that say most of its scores, then the opposites, for queries and keys.

    Args:
        q: weights of the queries for tokens of unit covariance, (C, D).
        k: the same of the keys.
    """
    width = q.shape[1]
    (q_axes, q_rest), (k_axes, k_rest) = torch.linalg.qr(q), torch.linalg.qr(k)
    left, scores, right = torch.linalg.svd(q_rest @ k_rest.T / math.sqrt(width))  # of D x D, not of C x C
    length = scores.sqrt()[: width // 2]
    both = []
    for axes in (q_axes @ left, k_axes @ right.T):
        half = axes[:, : width // 2] * length
        both.append(torch.cat([half, -half, half.new_zeros(len(half), width % 2)], dim=1))
    return both[0], both[1]


def _teacher_heads(layer: MountedAttention, leaf: str) -> tuple[Tensor, ...]:
    weight: Any = layer.teacher[leaf].weight
    heads: tuple[Tensor, ...] = double(weight.detach()).chunk(layer.heads)
    return heads
