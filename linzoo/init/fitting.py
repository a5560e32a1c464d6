"""Whether a teacher, an attention plan and an init recipe go together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from linzoo.attention.layout import PROJECTIONS
from linzoo.attention.plan import Placement
from linzoo.checkpoints.source import Checkpoint
from linzoo.checkpoints.unet import UNetTensors
from linzoo.errors import CheckpointError, UsageError
from linzoo.init.numbers import FLOATS
from linzoo.plugin import InitRecipe

_WHAT = {
    "linfusion": "published LinFusion weights, a folder, or user/repo on the Hub",
    "base": "the model that those weights were distilled from, a SOURCE",
}


def check_options(recipe: InitRecipe, given: Mapping[str, str | Path | None]) -> None:
    """The weights that were named must be the ones that the recipe needs.

    Raises:
        UsageError: they are not.
    """
    option = {"linfusion": "--from", "base": "--base"}
    for role, value in given.items():
        if value is None and role in recipe.needs:
            raise UsageError(f"init recipe '{recipe.id}' needs {option[role]}: {_WHAT[role]}")
        if value is not None and role not in recipe.needs:
            raise UsageError(f"init recipe '{recipe.id}' does not read {option[role]}; leave it out")


def check_mixers(recipe: InitRecipe, replaced: Iterable[Placement]) -> None:
    """The recipe must know how to start every mixer.

    Raises:
        UsageError: it does not.
    """
    for placement in replaced:
        if placement.mixer.id not in recipe.mixers:
            raise UsageError(
                f"init recipe '{recipe.id}' cannot start the mixer '{placement.mixer.id}' of"
                f" '{placement.site.name}' (it starts: {', '.join(recipe.mixers)}); choose another --init or --plan"
            )


def check_structure(teacher: UNetTensors, replaced: Iterable[Placement]) -> None:
    """Every attention that goes must be whole, and without what the layout has no place for.

    Raises:
        CheckpointError: one is not.
    """
    spec = teacher.checkpoint.spec
    for placement in replaced:
        name, dim = placement.site.name, placement.site.dim
        for each in PROJECTIONS:
            source = f"{name}.{each}"
            info = teacher.tensors.get(source)
            if info is None:
                raise CheckpointError(
                    f"{spec}: '{source}' is missing; the checkpoint is incomplete or renamed"
                )
            if info.shape != ((dim, dim) if each.endswith("weight") else (dim,)):
                raise CheckpointError(
                    f"{spec}: '{source}' has shape {list(info.shape)}, which is no self-attention of width {dim}"
                )
        for each in ("to_q.bias", "to_k.bias", "to_v.bias"):
            if f"{name}.{each}" in teacher.tensors:
                raise CheckpointError(
                    f"{spec}: '{name}.{each}' has no place in a LinFusion checkpoint; this is no SD UNet"
                )


def check_dtypes(teacher: UNetTensors, replaced: Iterable[Placement], dtype: str | None) -> None:
    """What is read of the teacher must be floats; fp8 only if it is to be written in another dtype.

    Raises:
        CheckpointError: it is not.
    """
    for placement in replaced:
        for each in PROJECTIONS:
            _check_dtype(teacher.checkpoint, teacher.names[f"{placement.site.name}.{each}"], dtype)


def _check_dtype(checkpoint: Checkpoint, own: str, dtype: str | None) -> None:
    spec, code = checkpoint.spec, checkpoint.tensors[own].dtype
    stem = own.removesuffix("weight")
    scales = [name for name in (f"{stem}scale_weight", f"{stem}weight_scale") if name in checkpoint.tensors]
    if code in FLOATS:
        return
    if not code.startswith("F8_E") or code == "F8_E8M0":
        raise CheckpointError(
            f"{spec}: '{own}' is {code}, which is quantised; get the 16-bit file of this model"
        )
    if scales:
        raise CheckpointError(
            f"{spec}: '{own}' is scaled fp8 (with '{scales[0]}'); get the 16-bit file of this model"
        )
    if dtype is None:
        raise CheckpointError(
            f"{spec}: '{own}' is fp8 ({code}), which linear attention cannot run in. Add --dtype float16 to write"
            " its values in 16 bits (exact, but no better than fp8), or get the 16-bit file of this model."
        )
