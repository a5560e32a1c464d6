"""What a UNet in memory is: its variant, which weights it has, and where they were loaded from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import on_hub
from linzoo.checkpoints.base_hash import hash_arrays, hashed_names
from linzoo.checkpoints.features import fingerprint_of
from linzoo.checkpoints.matching import closest, matches
from linzoo.errors import CheckpointError
from linzoo.zoo.errors import ZooError

if TYPE_CHECKING:
    from torch import nn

    from linzoo.registry import Registry

_ADAPTED = ".base_layer"  # what peft calls the layer below an adapter
_CACHED = re.compile(r"[\\/]models--([\w.-]+?)--([\w.-]+)[\\/]snapshots[\\/]")


@dataclass(frozen=True)
class LiveUNet:
    """A UNet in memory.

    Attributes:
        variants: ids of its variant, of the one that this refines, and so on.
        base_hash: which weights it has; None where they are quantised or not in memory.
        exact: another base hash means other weights. Of bfloat16 weights it may mean other rounding.
        repo: the Hub repository that it was loaded from; None for another place.
    """

    variants: tuple[str, ...]
    base_hash: str | None
    exact: bool
    repo: str | None


def look_at(pipe: Any, unet: nn.Module, registry: Registry) -> LiveUNet:
    """Tell what a UNet is; adapters that are loaded on it, and not fused, do not count.

    Args:
        pipe: the pipeline that it is part of, or the UNet itself.
        unet: the UNet.
        registry: the variants to know.

    Raises:
        ZooError: it is of no installed variant, or of several.
    """
    import torch

    weights = {name.replace(_ADAPTED, ""): weight for name, weight in unet.named_parameters()}
    variants = _variants({name: tuple(weight.shape) for name, weight in weights.items()}, registry)
    hashed = {name: weights[name] for name in hashed_names(weights)}
    return LiveUNet(
        variants,
        _hash(hashed),
        all(each.dtype != torch.bfloat16 for each in hashed.values()),
        _repo(pipe, unet),
    )


def _variants(shapes: Mapping[str, tuple[int, ...]], registry: Registry) -> tuple[str, ...]:
    fingerprint = fingerprint_of(shapes, ldm=False)
    found = matches(registry, fingerprint, shapes, ldm=False) if fingerprint else []
    if len(found) == 1:
        return tuple(each.value.id for each in registry.lineage(found[0].entry.full_id))
    if found:
        said = f"it fits several: {', '.join(each.entry.full_id for each in found)}"
    else:
        nearest = closest(registry, shapes, ldm=False)
        said = f"closest variant: {nearest.explain()}" if nearest else "it is not near any"
    raise ZooError(
        f"'auto' needs a UNet of one installed variant ({said}); name a LinFusion checkpoint instead of 'auto'"
    )


def _hash(weights: Mapping[str, nn.Parameter]) -> str | None:
    import torch
    from torch import nn

    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    if any(
        type(each) is not nn.Parameter or each.is_meta or each.dtype not in floats
        for each in weights.values()
    ):
        return None
    return hash_arrays(
        (name, each.detach().to(torch.float16).cpu().numpy()) for name, each in weights.items()
    )


def _repo(pipe: Any, unet: nn.Module) -> str | None:
    """The UNet's own origin, which is not the pipeline's where somebody has put in another one."""
    places = (dict(getattr(each, "config", {})).get("_name_or_path") for each in (unet, pipe))
    place = next(filter(None, places), None)
    if place is None:
        return None
    if cached := _CACHED.search(str(place)):
        return f"{cached[1]}/{cached[2]}"
    with contextlib.suppress(CheckpointError):  # a config may hold any address
        address = on_hub(str(place))
        return address.repo if address else None
    return None
