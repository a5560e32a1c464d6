"""Features of queries and keys that come near softmax without training: sharper ones, and pairs of opposed directions.

``elu(x) + 1`` is nearly flat around 0, so that copied queries and keys give nearly uniform attention. Two changes, both
folded into the weights, sharpen it:

* ``own``: a scale of each head's rows of ``to_q`` and ``to_k``.
* ``paired``: each head looks along the D / 2 directions that say most of the teacher's scores q . k, and along the
  opposites of these, scaled by s and shifted by -b. Below 0 the feature is exp, so that the similarity of two tokens is a
  sum of exp(s u.x + s w.y) + exp(-s u.x - s w.y): the positive features of softmax of Performer (arXiv 2009.14794, lemma 1,
  the hyperbolic variant), with directions from the data in place of random ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from linzoo_kernels import linear_attention
from linzoo_kernels.torch_ops import without_autocast
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from linzoo.attention.generalized_linear import GeneralizedLinearAttention
from linzoo.attention.mounted import MountedAttention

Basis = Literal["own", "paired"]

_RANK = 1e-6
"""Variance, by the largest, below which the tokens do not vary along a direction."""


@dataclass(frozen=True)
class HeadSharpness:
    """What was chosen for a head.

    Attributes:
        scale: of queries and keys.
        shift: what is taken from both; 0 for a head's own directions.
        error: squared error of what the head makes of the teacher's values, by that of the teacher's own, on the
            teacher's inputs.
    """

    scale: float
    shift: float
    error: float


@dataclass(frozen=True)
class LayerSharpness:
    """What was chosen for a layer."""

    basis: Basis
    heads: tuple[HeadSharpness, ...]

    @property
    def error(self) -> float:
        """Mean of the heads'."""
        return sum(head.error for head in self.heads) / len(self.heads)


class Moments:
    """Mean and covariance of a layer's tokens, summed up in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, hidden_states: Tensor) -> None:
        """Take in tokens, (B, N, C)."""
        rows = hidden_states.flatten(0, 1).double()
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


class SharpnessSearch:
    """Finds the sharpness of every head whose attention is nearest to softmax on the teacher's inputs.

    Both attentions are applied to the teacher's values, so that the choice does not depend on the student's ``to_v`` and
    ``to_out``. Only sums are kept.

    Args:
        scales: that are tried.
        shifts: that are tried in the ``paired`` basis; none leaves that basis out.
    """

    def __init__(self, scales: tuple[float, ...], shifts: tuple[float, ...]) -> None:
        self._candidates: dict[Basis, list[_Candidate]] = {
            "own": [_Candidate("own", scale, 0) for scale in scales],
            "paired": [_Candidate("paired", scale, shift) for scale in scales for shift in shifts],
        }
        self._moments: dict[str, Moments] = defaultdict(Moments)
        self._directions: dict[str, PairedDirections] = {}
        self._errors: dict[str, dict[_Candidate, Tensor]] = defaultdict(dict)
        self._sizes: dict[str, Tensor] = {}

    def measure(self, name: str, _: MountedAttention, hidden_states: Tensor, __: Tensor) -> None:
        """Look at a layer's inputs; everything is to be measured before anything is compared."""
        self._moments[name].add(hidden_states)

    def compare(self, name: str, layer: MountedAttention, hidden_states: Tensor, _: Tensor) -> None:
        """Compare all candidates on a layer's inputs."""
        if not isinstance(layer, GeneralizedLinearAttention):
            return
        x = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        with without_autocast(x.device.type):
            values = _teacher(layer, "v", x)
            wanted = _softmax(_teacher(layer, "q", x), _teacher(layer, "k", x), values, layer.heads)
            self._add(self._sizes, name, _by_head(wanted, layer.heads))
            for basis, (q, k) in self._features(name, layer, x).items():
                for each in self._candidates[basis]:
                    found = linear_attention(
                        q * each.scale - each.shift, k * each.scale - each.shift, values, heads=layer.heads
                    )
                    self._add(self._errors[name], each, _by_head(found - wanted, layer.heads))

    def best(self, *bases: Basis) -> dict[str, LayerSharpness]:
        """The best choice for each layer: one basis of these, and within it each head's own scale and shift."""
        chosen = {}
        for name in self._errors:
            options = [self._best(name, basis) for basis in bases]
            chosen[name] = min((each for each in options if each is not None), key=lambda each: each.error)
        return chosen

    def apply(self, layers: Mapping[str, MountedAttention], chosen: Mapping[str, LayerSharpness]) -> None:
        """Fold choices into the weights of layers that have the features they were made for."""
        for name, choice in chosen.items():
            layer: Any = layers[name]
            scales = _rows([head.scale for head in choice.heads], layer.to_q.weight)
            with torch.no_grad():
                if choice.basis == "own":
                    layer.to_q.weight.mul_(scales)
                    layer.to_k.weight.mul_(scales)
                else:
                    shifts = _rows([head.shift for head in choice.heads], layer.to_q.weight)
                    self._directions[name].write(layer, scales, shifts)

    def _features(
        self, name: str, layer: GeneralizedLinearAttention, x: Tensor
    ) -> dict[Basis, tuple[Tensor, Tensor]]:
        """Queries and keys in each basis at scale 1, (B, N, C)."""
        own = layer.to_q(x + layer.to_q_(x)), layer.to_k(x + layer.to_k_(x))
        if not self._candidates["paired"] or isinstance(layer.to_q_, nn.Identity):
            return {"own": own}
        if name not in self._directions:
            self._directions[name] = PairedDirections(layer, self._moments.pop(name))
        paired = self._directions[name]
        return {"own": own, "paired": (F.linear(x, paired.q.to(x)), F.linear(x, paired.k.to(x)))}

    @staticmethod
    def _add(sums: dict[Any, Tensor], key: object, numbers: Tensor) -> None:
        """Add up squares by head."""
        squares = numbers.double().square().sum((0, 1, 3))
        sums[key] = sums[key] + squares if key in sums else squares

    def _best(self, name: str, basis: Basis) -> LayerSharpness | None:
        candidates = [each for each in self._candidates[basis] if each in self._errors[name]]
        if not candidates:
            return None
        errors = torch.stack([self._errors[name][each] / self._sizes[name] for each in candidates])
        least, places = errors.min(0)
        heads = (
            HeadSharpness(candidates[place].scale, candidates[place].shift, error)
            for place, error in zip(places.tolist(), least.tolist(), strict=True)
        )
        return LayerSharpness(basis, tuple(heads))


@dataclass(frozen=True)
class _Candidate:
    basis: Basis
    scale: float
    shift: float


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


def _teacher(layer: MountedAttention, leaf: str, x: Tensor) -> Tensor:
    weight: Any = layer.teacher[leaf].weight
    return F.linear(x, weight.to(x))


def _teacher_heads(layer: MountedAttention, leaf: str) -> tuple[Tensor, ...]:
    weight: Any = layer.teacher[leaf].weight
    heads: tuple[Tensor, ...] = weight.detach().double().chunk(layer.heads)
    return heads


def _softmax(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (_by_head(each, heads).transpose(1, 2) for each in (q, k, v))
    attended: Tensor = F.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).flatten(2)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) as (B, N, heads, D)."""
    return x.unflatten(-1, (heads, -1))


def _rows(heads: list[float], weight: Tensor) -> Tensor:
    """A number for each head as a column that goes with the rows of a weight, (C, 1)."""
    return weight.new_tensor(heads).repeat_interleave(len(weight) // len(heads))[:, None]
