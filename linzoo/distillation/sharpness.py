"""Features of queries and keys that come near softmax without training: sharper ones, and pairs of opposed directions.

``elu(x) + 1`` is nearly flat around 0, so that copied queries and keys give nearly uniform attention. Two changes, both
folded into the weights, sharpen it:

* ``own``: a scale of each head's rows of ``to_q`` and ``to_k``.
* ``paired``: other directions than the teacher's, in opposed pairs; see :mod:`linzoo.distillation.paired`.
"""

from __future__ import annotations

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
from linzoo.distillation.double import double
from linzoo.distillation.paired import Moments, PairedDirections

Basis = Literal["own", "paired"]


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

    def measure(self, name: str, layer: MountedAttention, hidden_states: Tensor, _: Tensor) -> None:
        """Look at a layer's inputs, for the ``paired`` basis: at everything, before anything is compared."""
        if _has_branches(layer):
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
        if not self._candidates["paired"] or not _has_branches(layer):
            return {"own": own}
        if name not in self._directions:
            self._directions[name] = PairedDirections(layer, self._moments.pop(name))
        paired = self._directions[name]
        return {"own": own, "paired": (F.linear(x, paired.q.to(x)), F.linear(x, paired.k.to(x)))}

    @staticmethod
    def _add(sums: dict[Any, Tensor], key: object, numbers: Tensor) -> None:
        """Add up squares by head."""
        squares = double(numbers).square().sum((0, 1, 3))
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


def _has_branches(layer: MountedAttention) -> bool:
    """Whether a layer can express a shift."""
    return isinstance(layer, GeneralizedLinearAttention) and not isinstance(layer.to_q_, nn.Identity)


def _teacher(layer: MountedAttention, leaf: str, x: Tensor) -> Tensor:
    weight: Any = layer.teacher[leaf].weight
    projected: Tensor = F.linear(x, weight.to(x))
    return projected


def _softmax(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (_by_head(each, heads).transpose(1, 2) for each in (q, k, v))
    attended: Tensor = F.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).flatten(2)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) as (B, N, heads, D)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split


def _rows(heads: list[float], weight: Tensor) -> Tensor:
    """A number for each head as a column that goes with the rows of a weight, (C, 1)."""
    return weight.new_tensor(heads).repeat_interleave(len(weight) // len(heads))[:, None]
