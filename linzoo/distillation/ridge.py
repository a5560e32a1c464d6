"""``to_out`` in closed form: ridge regression of the teacher's attention outputs on the student's mixed tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.double import double


@dataclass
class _Sums:
    """A = F'F and B = F'Y of F = [mixed tokens, 1] and Y, and the weights to stay near, (C + 1, C)."""

    present: Tensor
    features: Tensor | float = field(default=0.0)
    targets: Tensor | float = field(default=0.0)


class RidgeRegression:
    """Ridge regression of each layer's ``to_out``, pulled towards its present weights.

    Minimises |F W - Y|^2 + r |W - W0|^2 for F the tokens that the student mixes out of the teacher's inputs, with a column
    of ones for the bias, Y the output of the teacher's attention, and W0 the present weight and bias. Sums are float64;
    none of F and Y is kept.
    """

    def __init__(self) -> None:
        self._sums: dict[str, _Sums] = {}

    def add(self, name: str, layer: MountedAttention, hidden_states: Tensor, output: Tensor) -> None:
        """Take in a layer's inputs and the outputs of the teacher's attention, (B, N, C)."""
        mixed = double(layer.mix(hidden_states, None).flatten(0, 1))
        features = torch.cat([mixed, mixed.new_ones(len(mixed), 1)], dim=1)
        if name not in self._sums:
            self._sums[name] = _Sums(_weight_and_bias(layer))
        sums = self._sums[name]
        sums.features = sums.features + features.T @ features
        sums.targets = sums.targets + features.T @ double(output.flatten(0, 1))

    def solve(self, name: str, strength: float) -> Tensor:
        """Weight and bias of a layer, the bias last, (C + 1, C) in float64.

        Args:
            name: of the layer.
            strength: r by the mean of the diagonal of F'F: the same number means as much for every layer.
        """
        sums = self._sums[name]
        products, targets = torch.as_tensor(sums.features), torch.as_tensor(sums.targets)
        pull = strength * products.diagonal().mean()
        identity = torch.eye(len(products), dtype=products.dtype, device=products.device)
        solution: Tensor = torch.linalg.solve(products + pull * identity, targets + pull * sums.present)
        return solution

    def apply(self, layers: dict[str, MountedAttention], strength: float) -> None:
        """Write the solutions into the layers."""
        for name in self._sums:
            solution = self.solve(name, strength)
            to_out = _to_out(layers[name])
            with torch.no_grad():
                to_out.weight.copy_(solution[:-1].T)
                to_out.bias.copy_(solution[-1])


def _weight_and_bias(layer: MountedAttention) -> Tensor:
    to_out = _to_out(layer)
    return double(torch.cat([to_out.weight.detach().T, to_out.bias.detach()[None]]))


def _to_out(layer: Any) -> Any:
    return layer.to_out[0]
