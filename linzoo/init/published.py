"""Published LinFusion weights to start from: opening them, and holding them against a UNet and a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.attention.plan import Placement
from linzoo.checkpoints.linfusion import GENERALIZED_LINEAR
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.lock import read_lock
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError
from linzoo.init.numbers import FLOATS
from linzoo.init.recipe import PublishedWeights
from linzoo.plugin import Variant

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry


def open_published(spec: str | Path, variant: Registered[Variant], registry: Registry) -> PublishedWeights:
    """Open a LinFusion checkpoint, local or on the Hub.

    Args:
        spec: a CHECKPOINT.
        variant: what it will be used for; a checkpoint of linzoo says which variant it was made for.
        registry: where the variants are looked up.

    Raises:
        CheckpointError: it is no LinFusion checkpoint, is damaged, or is of another variant.
    """
    checkpoint, config = open_linfusion(spec, registry=registry, fetch_weights=False)
    _check_variant(checkpoint, variant, registry)
    for name, info in checkpoint.tensors.items():
        if info.dtype not in FLOATS:
            raise CheckpointError(
                f"{checkpoint.spec}: '{name}' is {info.dtype}; published weights must be floats"
            )
    return PublishedWeights(checkpoint, config)


def _check_variant(checkpoint: Checkpoint, variant: Registered[Variant], registry: Registry) -> None:
    """Where a lock file says what the weights were made for, it must be the same variant or one that it refines."""
    lock = read_lock(checkpoint.path)
    if lock is None:
        return
    detection = lock.get("detection")
    made_for = detection.get("variant") if isinstance(detection, dict) else None
    related = {each.value.id for each in registry.lineage(variant.full_id)}
    related |= {
        each.value.id
        for each in registry.variants
        if variant.value.id in {ancestor.value.id for ancestor in registry.lineage(each.full_id)}
    }
    if made_for is not None and made_for not in related:
        raise CheckpointError(
            f"{checkpoint.spec}: made for variant '{made_for}', but the source is '{variant.value.id}'"
        )


def match_published(
    replaced: Iterable[Placement], shapes: Mapping[str, tuple[int, ...]], published: PublishedWeights
) -> list[Placement]:
    """Hold a plan's placements against published weights, and take over the widths of their branches.

    Modules that the plan keeps softmax are left out; every module that it replaces must be there.

    Args:
        replaced: the placements that replace something.
        shapes: the tensors of the UNet, by diffusers name.
        published: the weights.

    Raises:
        CheckpointError: the weights name a module that the UNet does not have, lack one that the plan replaces, or
            have another width, number of heads or mixer there.
    """
    spec = published.checkpoint.spec
    entries = {entry.module_name: entry for entry in published.config.modules}
    for name in entries:
        if f"{name}.to_q.weight" not in shapes:
            raise CheckpointError(f"{spec}: made for another UNet: the source has no module '{name}'")
    matched = []
    for placement in replaced:
        site, entry = placement.site, entries.get(placement.site.name)
        if entry is None:
            raise CheckpointError(
                f"{spec}: holds no weights for '{site.name}', which the attention plan replaces; choose a plan that"
                " keeps it softmax"
            )
        theirs = (entry.mixer, entry.dim_n, entry.heads)
        ours = (placement.mixer.id, site.dim, site.heads)
        if theirs != ours:
            raise CheckpointError(
                f"{spec}: '{site.name}' is {theirs[0]} of width {theirs[1]} with {theirs[2]} heads, but the source"
                f" needs {ours[0]} of width {ours[1]} with {ours[2]} heads; is it for another variant?"
            )
        if entry.mixer == GENERALIZED_LINEAR:
            placement = replace(placement, options={"projection_mid_dim": entry.projection_mid_dim})
        matched.append(placement)
    return matched
