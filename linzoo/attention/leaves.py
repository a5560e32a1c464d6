"""The linear layers of an attention, and the base below the adapters (LoRA) that may wrap them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from linzoo.attention.errors import UnsupportedAttentionError

LEAVES = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
"""Name of each linear layer that softmax and linear attention have in common, and its path in an ``Attention``."""


def base_of(leaf: Any) -> Any:
    """The layer below all adapters; the leaf itself where there is none."""
    while hasattr(leaf, "base_layer"):
        leaf = leaf.base_layer
    return leaf


def replace_base(attention: nn.Module, path: str, new: nn.Module) -> Any:
    """Put another layer below the adapters at ``path``, which stay; return the layer that stood there.

    An adapter that is fused into the old layer is taken out of it and fused into the new one.
    """
    parent_path, _, key = path.rpartition(".")
    parent: Any = attention.get_submodule(parent_path)
    leaf: Any = parent.get_submodule(key)
    adapter, fused = leaf, list(getattr(leaf, "merged_adapters", ()))
    if fused:
        adapter.unmerge()
    while hasattr(leaf, "base_layer"):
        parent, key, leaf = leaf, "base_layer", leaf.base_layer
    setattr(parent, key, new)
    if fused:
        adapter.merge(adapter_names=fused)
    return leaf


def project(leaf: Any, base: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """Apply a leaf with its adapters, but over another base layer; the leaf as it is where ``base`` is None.

    Raises:
        UnsupportedAttentionError: an adapter is no plain product of matrices (DoRA), so that what it adds
            depends on the base below it.
    """
    y: torch.Tensor = leaf(x) if base is None else base(x)
    if base is None or not hasattr(leaf, "base_layer") or leaf.disable_adapters:
        return y
    for name in leaf.merged_adapters or leaf.active_adapters:
        if name in getattr(leaf, "lora_variant", ()):
            raise UnsupportedAttentionError(
                f"The adapter {name!r} (DoRA or another variant of LoRA) cannot be applied to the softmax "
                "attention that min_tokens keeps for small sizes; mount with min_tokens=0."
            )
        if name in leaf.lora_A:
            y = y + F.linear(x, leaf.get_delta_weight(name).to(x.dtype))
    return y
