"""The weights of a linear attention layer in the official layout, read off its plain modules or refused."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_Leaf = tuple[type[nn.Module], tuple[str, ...]]
_WEIGHT, _BOTH = ("weight",), ("weight", "bias")
_PROJECTIONS: dict[str, _Leaf] = {
    "to_q": (nn.Linear, _WEIGHT),
    "to_k": (nn.Linear, _WEIGHT),
    "to_v": (nn.Linear, _WEIGHT),
    "to_out.0": (nn.Linear, _BOTH),
}
_BRANCH: dict[str, _Leaf] = {
    "0": (nn.Linear, _BOTH),
    "1": (nn.LayerNorm, _BOTH),
    "2": (nn.LeakyReLU, ()),
    "3": (nn.Linear, _BOTH),
}
_WITH_BRANCHES = _PROJECTIONS | {
    f"{f}.{part}": leaf for f in ("to_q_", "to_k_") for part, leaf in _BRANCH.items()
}
_WITHOUT = _PROJECTIONS | dict.fromkeys(("to_q_", "to_k_"), (nn.Identity, ()))
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class FuseError(RuntimeError):
    """A layer cannot be fused as it is, or is fused and was asked for what only its own weights can do."""


def official_weights(attn: nn.Module) -> dict[str, Tensor]:
    """The weights by their official names: ``to_q.weight``, ``to_out.0.bias``, ``to_q_.1.weight`` and so on.

    Args:
        attn: has the children ``to_q``, ``to_k``, ``to_v`` (no bias), ``to_out`` with a linear layer first, and ``to_q_`` and
            ``to_k_``, which are Linear, LayerNorm, LeakyReLU, Linear, or both the identity.

    Raises:
        FuseError: a leaf is something else (an adapter, a quantised layer), or under a hook.
    """
    weights: dict[str, Tensor] = {}
    layout = _WITHOUT if type(child(attn, ["to_q_"])) is nn.Identity else _WITH_BRANCHES
    for name, (kind, keys) in layout.items():
        leaf = child(attn, name.split("."))
        if leaf is None or type(leaf) is not kind:
            raise FuseError(_of_another_kind(name, leaf, kind))
        if is_hooked(leaf):
            raise FuseError(
                f"{name} is under a hook (sequential or leaf-level offloading, layer-wise casting), which acts when {name} is "
                "called, and products of the weights are computed with instead. Do without them, or offload the model as a whole "
                "(enable_model_cpu_offload)."
            )
        present = {key: weight for key, weight in leaf._parameters.items() if weight is not None}
        if tuple(present) != keys:
            raise FuseError(f"{name} has {_names(present)}; in the official layout it has {_names(keys)}.")
        for key, weight in present.items():
            _check(f"{name}.{key}", weight)
            weights[f"{name}.{key}"] = weight
    return weights


def _names(keys: Iterable[str]) -> str:
    return " and ".join(keys) or "no weights"


def child(attn: nn.Module, path: Iterable[str]) -> nn.Module | None:
    """The module at a path, or None; several times faster than ``get_submodule``."""
    module: nn.Module | None = attn
    for name in path:
        module = None if module is None else module._modules.get(name)
    return module


def is_hooked(module: nn.Module) -> bool:
    """Whether something else is called in place of the module's own ``forward``, as hooks of libraries arrange it."""
    forward = vars(module).get("forward")
    return forward is not None and getattr(forward, "__func__", None) is not type(module).forward


def _check(name: str, weight: Tensor) -> None:
    if type(weight) is not nn.Parameter or weight.dtype not in _PRECISIONS:
        raise FuseError(
            f"{name} is quantised ({type(weight).__name__} of {weight.dtype}), and its products would not be. Do "
            "without them, or leave the layer out of quantisation."
        )


def _of_another_kind(name: str, leaf: nn.Module | None, kind: type[nn.Module]) -> str:
    if hasattr(leaf, "base_layer"):
        return (
            f"{name} carries an adapter (LoRA) or what is left of one, and products are of plain weights. Fuse the adapter "
            "into the weights (fuse_lora) and take its layers off (unload_lora_weights), or do without the products."
        )
    found = "missing" if leaf is None else f"a {type(leaf).__module__}.{type(leaf).__name__}"
    return f"{name} is {found} and not a torch.nn.{kind.__name__}: only plain layers of the official layout are fused."
