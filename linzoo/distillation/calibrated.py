"""Init recipe ``calibrated``: the teacher's weights after stage 0 of the variant's own distill recipe, on its own samples.

Nothing is trained. What the samples are, how many, and what is tried is what the recipe says; see
:mod:`linzoo.distillation.calibrate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from linzoo.attention.layout import PROJECTIONS
from linzoo.distillation.lookup import find_recipe
from linzoo.errors import UsageError
from linzoo.init import teacher
from linzoo.init.numbers import cast
from linzoo.init.recipe import Follow, InitPlan, InitRequest, PlannedTensor

if TYPE_CHECKING:
    from linzoo.distillation.document import ResolvedRecipe

_CHANGED = ("to_q.", "to_k.", "to_out.", "to_q_.3.", "to_k_.3.")
"""Parts of a module that calibration changes; the others are as ``teacher`` makes them."""


def build(request: InitRequest) -> InitPlan:
    """Plan the tensors as the init recipe ``teacher`` does; those that calibration changes are made once it is done.

    Raises:
        RecipeError: the variant's distill recipe is wrong.
        UsageError: the variant has none, or one without calibration.
    """
    found = find_recipe(None, request.registry, variant=request.variant)
    if found.recipe.calibrate is None:
        raise UsageError(
            f"the distill recipe '{found.recipe.name}' of variant '{request.variant.value.id}' does not calibrate;"
            " use --init teacher"
        )
    planned = tuple(_announced(request, tensor) for tensor in teacher.build(request).tensors)
    return InitPlan(planned, prepare=partial(_prepare, request, found, planned))


def _announced(request: InitRequest, tensor: PlannedTensor) -> PlannedTensor:
    """A tensor that calibration changes comes of the whole attention of its module, whichever it started as."""
    if not _is_changed(tensor.name):
        return tensor
    module = request.modules[int(tensor.name.partition(".")[0])]
    sources = tuple(f"teacher:{request.teacher.names[module.source(name)]}" for name in PROJECTIONS)
    return replace(tensor, action="combined", sources=sources, how="calibrated")


def _prepare(
    request: InitRequest, found: ResolvedRecipe, planned: tuple[PlannedTensor, ...], follow: Follow
) -> InitPlan:
    from linzoo.distillation.untrained import calibrated_weights

    exact = teacher.build(replace(request, dtype="F32")).tensors
    weights, measured = calibrated_weights(
        request, found.recipe, {each.name: each.make() for each in exact}, follow
    )
    tensors = tuple(
        replace(tensor, make=partial(_make, tensor, weights)) if _is_changed(tensor.name) else tensor
        for tensor in planned
    )
    return InitPlan(tensors, {"recipe": found.recipe.name, "recipe_sha256": found.sha256, **measured})


def _make(tensor: PlannedTensor, weights: Mapping[str, Any]) -> np.ndarray:
    return cast(weights[tensor.name].numpy(), tensor.dtype, tensor.name)


def _is_changed(name: str) -> bool:
    return name.partition(".")[2].startswith(_CHANGED)
