"""What products were made of, and whether a layer still is that; asked at every call, so it takes a few microseconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from linzoo_kernels.leaves import official_weights


class Watched(nn.Sequential):
    """Leaves in sequence, of which it is noticed that one is replaced.

    A LoRA that is put on a leaf, fused into its weight (through ``.data``, which PyTorch does not count) and taken off
    again leaves no other trace.
    """

    replaced: object = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Another mark for each replacement."""
        super().__setattr__(name, value)
        if name in self._modules:
            self.replaced = object()


class Origin:
    """The weights of a layer as they were found, and where.

    Copies (deepcopy, pickle) belong to the copy of the layer.

    Attributes:
        weights: the layer's own weights by their official names.
    """

    def __init__(self, attn: nn.Module) -> None:
        self.weights = official_weights(attn)
        leaves = dict.fromkeys(name.rpartition(".")[0] for name in self.weights)
        paths = dict.fromkeys(".".join(name.split(".")[:n]) for name in leaves for n in (1, 2))
        below = [path.split(".") for path in paths if "." in path]
        modules = {name: attn.get_submodule(name) for name in paths}
        self._children = [(name, module) for name, module in modules.items() if "." not in name]
        self._below: list[tuple[dict[str, Any], str, Any]] = [
            (modules[parent]._modules, key, modules[f"{parent}.{key}"]) for parent, key in below
        ]
        for name, weight in self.weights.items():
            leaf, _, key = name.rpartition(".")
            self._below.append((modules[leaf]._parameters, key, weight))
        self._forwards = [(module, vars(module).get("forward")) for module in map(modules.get, leaves)]
        self._marks = [
            (module, module.replaced) for module in modules.values() if isinstance(module, Watched)
        ]
        self._outdated = False
        self._count()

    def expire(self) -> None:
        """Declare that a weight has changed, or may have."""
        self._outdated = True

    def is_that_of(self, attn: nn.Module) -> bool:
        """Whether the layer has these weights, in these leaves, without hooks, and they are as they were."""
        if self._outdated or not (torch.compiler.is_compiling() or self._counted() == self._changes):
            return False
        children = attn._modules
        for name, module in self._children:
            if children.get(name) is not module:
                return False
        for holder, key, value in self._below:
            if holder.get(key) is not value:
                return False
        for leaf, forward in self._forwards:
            if leaf.__dict__.get("forward") is not forward:
                return False
        return all(watched.replaced is mark for watched, mark in self._marks)

    def _count(self) -> None:
        """Remember how often the weights were changed in place; tensors of inference mode do not count that."""
        self._counting = [weight for weight in self.weights.values() if not weight.is_inference()]
        self._changes = self._counted()

    def _counted(self) -> int:
        return sum([weight._version for weight in self._counting])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_outdated": self._outdated or self._counted() != self._changes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._count()  # PyTorch counts the changes of copies from 0
