"""The linear layers of an attention, and the base below the adapters (LoRA) that may wrap them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from linzoo.attention.errors import UnsupportedAttentionError

LEAVES = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
"""Path in an ``Attention`` of each linear layer that softmax and linear attention have in common.

The short names are the teacher's leaves' own: a LoRA on "to_q" must not find ``teacher.q``, as it would ``teacher.to_q``.
"""


def base_of(leaf: Any) -> Any:
    """The layer below all adapters; the leaf itself where there is none."""
    while hasattr(leaf, "base_layer"):
        leaf = leaf.base_layer
    return leaf


def replace_base(attention: nn.Module, path: str, new: nn.Module) -> None:
    """Put another layer below the adapters at ``path``, which stay.

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


def project(leaf: Any, base: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    """Apply a leaf with its adapters, but over another base layer; the leaf as it is where ``base`` is None.

    Raises:
        UnsupportedAttentionError: an adapter is no plain product of matrices (DoRA, LoHa), so that linzoo does not
            know what it adds to another base.
    """
    y: torch.Tensor = leaf(x) if base is None else base(x)
    if base is None or not hasattr(leaf, "base_layer") or leaf.disable_adapters:
        return y
    for name in leaf.merged_adapters or leaf.active_adapters:
        if not hasattr(leaf, "lora_A") or name in getattr(leaf, "lora_variant", ()):
            raise UnsupportedAttentionError(
                f"The adapter {name!r} is no plain LoRA (but DoRA, LoHa or another kind) and cannot be applied to the "
                "softmax attention that min_tokens keeps for small sizes; mount with min_tokens=0."
            )
        if name in leaf.lora_A:
            down, up = leaf.lora_A[name], leaf.lora_B[name]
            added = up(down(leaf.lora_dropout[name](x.to(down.weight.dtype))))
            y = y + (added * leaf.scaling[name]).to(y.dtype)
    return y
