"""Folding the mounted layers of a UNet for inference: products of their weights in place of the weights, and back."""

from __future__ import annotations

from collections.abc import Mapping

from linzoo_kernels import FuseError

from linzoo.attention.errors import FoldError
from linzoo.attention.generalized_linear import GeneralizedLinearAttention
from linzoo.attention.mounted import MountedAttention


def foldable(layers: Mapping[str, MountedAttention]) -> dict[str, GeneralizedLinearAttention]:
    """Those of the layers that can be folded: generalized linear attention. Other mixers have no products to make."""
    return {name: layer for name, layer in layers.items() if isinstance(layer, GeneralizedLinearAttention)}


def fold(layers: Mapping[str, MountedAttention]) -> None:
    """Fold layers, all of them or none; those that are folded and current stay as they are.

    Raises:
        FoldError: a layer carries adapters, or its weights are quantised or not in memory.
    """
    begun: dict[str, MountedAttention] = {}
    try:
        for name, layer in foldable(layers).items():
            if layer.folded is None:
                begun[name] = layer
            _fold(name, layer)
    except BaseException:
        unfold(begun)
        raise


def unfold(layers: Mapping[str, MountedAttention]) -> None:
    """Give layers back the weights that they were folded from, which are the same bits."""
    for layer in foldable(layers).values():
        layer.unfold()


def _fold(name: str, layer: GeneralizedLinearAttention) -> None:
    try:
        layer.fold()
    except FuseError as error:
        raise FoldError(f"{name} cannot be folded: {error}") from error
