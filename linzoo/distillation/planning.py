"""Everything about a run that is settled before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linzoo.attention.fit import misfits
from linzoo.attention.plan import sites_of
from linzoo.checkpoints.atomic import require_space
from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.kinship import other_weights
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.lock import read_lock
from linzoo.checkpoints.source import Checkpoint
from linzoo.checkpoints.unet import open_unet
from linzoo.distillation.arithmetic import Arithmetic, run_folder
from linzoo.distillation.data.sources import open_source as open_data
from linzoo.distillation.document import ResolvedRecipe, read_recipe
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.log import wanted_trackers
from linzoo.distillation.lookup import find_recipe
from linzoo.distillation.optimization import require_optimizer
from linzoo.distillation.recipe import Recipe, Stage
from linzoo.errors import UsageError
from linzoo.generate.teacher import require_text_to_image
from linzoo.plugin import Variant

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry

Resume = int | Literal["latest"]
RECIPE_NAME = "recipe.yaml"
RUN_NAME = "run.json"
STATE_NAME = "state"
FINAL_NAME = "linfusion"
BEST_NAME = "best"


@dataclass(frozen=True)
class RunPlan:
    """A run that fits together.

    Attributes:
        teacher: what the teacher is.
        variant: what the registry provides for it.
        checkpoint: the LinFusion checkpoint that is distilled.
        config: its ``config.json``.
        lock: its lock file; None where it has none.
        recipe: the settings.
        out: the folder of the run.
        resume: the step to go on from, or ``latest``; None for a new run.
        note: what to know before it begins; empty for nothing.
    """

    teacher: Inspection
    variant: Registered[Variant]
    checkpoint: Checkpoint
    config: LinFusionConfig
    lock: Mapping[str, Any] | None
    recipe: ResolvedRecipe
    out: Path
    resume: Resume | None
    note: str

    @property
    def settings(self) -> Recipe:
        """The recipe's settings."""
        return self.recipe.recipe

    @property
    def stages(self) -> dict[str, Stage]:
        """The trained stages by name, in their order."""
        both = {"align": self.settings.align, "distill": self.settings.distill}
        return {name: stage for name, stage in both.items() if stage is not None}

    @property
    def work(self) -> tuple[str, ...]:
        """What the run does to the weights, in its order."""
        return (*(["calibrate"] if self.settings.calibrate else []), *self.stages)

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages.values())

    @property
    def trained(self) -> int:
        """How many numbers are trained."""
        return sum(prod(info.shape) for info in self.checkpoint.tensors.values())

    @property
    def disk(self) -> int:
        """Bytes that the run writes to its own folder at most, pictures and figures aside."""
        return sum(line.nbytes for line in run_folder(self.settings, self.trained))

    def arithmetic(self, world: int = 1, items: int | None = None) -> Arithmetic:
        """What adds up the run's memory, disk and operations, in so many processes, with so many items of data."""
        _, prediction_type = self.teacher.require()
        return Arithmetic(
            self.variant.value,
            self.config,
            self.settings,
            prediction_type=prediction_type,
            world=world,
            items=items,
        )


def plan_run(
    checkpoint: str | Path,
    teacher: str | Path,
    *,
    recipe: str | Path | None,
    preset: str | None,
    overrides: Sequence[str],
    out: Path,
    resume: Resume | None,
    variant: str | None,
    prediction_type: str | None,
    registry: Registry,
) -> RunPlan:
    """Read everything's description and check that it fits; see :func:`linzoo.distill` for arguments and errors."""
    opened, config = open_linfusion(checkpoint, registry=registry)
    found = inspect(teacher, registry=registry, variant=variant, prediction_type=prediction_type)
    require_text_to_image(found)
    entry, _ = found.require()
    registered = next(each for each in registry.variants if each.value is entry)
    resolved = _recipe(recipe, preset, overrides, out if resume is not None else None, registered, registry)
    check_out(out, resume)
    note = other_weights(opened, found, registry)
    plan = RunPlan(found, registered, opened, config, read_lock(opened.path), resolved, out, resume, note)
    _check_variant(plan, registry)
    _check_start(plan)
    _check_modules(plan)
    for stage in plan.stages.values():
        require_optimizer(stage.optimizer)
    wanted_trackers(plan.settings.logging)
    return plan


def require_room(plan: RunPlan) -> int:
    """Return the bytes that are free where the run writes.

    Raises:
        CheckpointError: they are too few for its states and results, beside those that are there already.
    """
    there = [path for name in (STATE_NAME, FINAL_NAME, BEST_NAME) for path in (plan.out / name).rglob("*")]
    missing = max(0, plan.disk - sum(path.stat().st_size for path in there))
    return require_space(plan.out, missing + min_free(plan.settings))


def free_room(plan: RunPlan) -> int:
    """Bytes that are free where the run would write."""
    return require_space(plan.out, 0)


def item_count(plan: RunPlan) -> int | None:
    """How many items the run's data has; None where only reading them all would tell.

    Raises:
        DataError: there is no such data.
    """
    data = plan.settings.data
    return open_data(data, data.max_items).count


def min_free(recipe: Recipe) -> int:
    """Bytes that every save leaves free."""
    return int(recipe.guards.min_free_disk_gb * 1e9)


def _recipe(
    name: str | Path | None,
    preset: str | None,
    overrides: Sequence[str],
    earlier: Path | None,
    variant: Registered[Variant],
    registry: Registry,
) -> ResolvedRecipe:
    """The named recipe; without a name that of the run that is gone on with, or the variant's."""
    if name is None and earlier is not None and (earlier / RECIPE_NAME).is_file():
        if preset is not None:
            raise UsageError(
                "--preset needs --recipe: the run's own recipe has its preset applied already; --set changes settings"
            )
        return read_recipe(earlier / RECIPE_NAME, overrides=overrides)
    return find_recipe(name, registry, variant=variant, preset=preset, overrides=overrides)


def check_out(out: Path, resume: Resume | None) -> None:
    """Refuse a folder that holds something else than the run to go on with.

    Raises:
        DistillationError: so it is.
    """
    if out.exists() and not out.is_dir():
        raise DistillationError(f"{out} is a file; name a folder")
    holds_run = (out / RUN_NAME).is_file()
    if resume is None and holds_run:
        raise DistillationError(
            f"{out} holds a run; --resume latest goes on with it, and another --out begins a new one"
        )
    if not holds_run and out.is_dir() and any(out.iterdir()):
        raise DistillationError(f"{out} is not empty and holds no run of linzoo; choose another --out")


def _check_variant(plan: RunPlan, registry: Registry) -> None:
    wanted, own = plan.settings.variant, plan.variant.value.id
    if registry.variants[wanted] not in registry.lineage(own):
        raise DistillationError(
            f"recipe '{plan.recipe.name}' is for {wanted}, and {plan.teacher.checkpoint.spec} is {own};"
            " 'linzoo recipes ls' shows those that fit"
        )
    made_for = (plan.lock or {}).get("detection", {}).get("variant", own)
    if made_for != own:
        raise DistillationError(
            f"{plan.checkpoint.path} was made for {made_for}, and {plan.teacher.checkpoint.spec} is {own};"
            " give the teacher that it was converted from, or convert this one"
        )


def _check_start(plan: RunPlan) -> None:
    wanted = plan.settings.start
    if wanted is None:
        return
    advice = (
        f"run 'linzoo convert {plan.teacher.checkpoint.spec} OUT --init {wanted}', or add --set start=null"
    )
    came_from = (plan.lock or {}).get("init", {}).get("id")
    if came_from is None:
        raise DistillationError(
            f"recipe '{plan.recipe.name}' starts from --init {wanted}, and {plan.checkpoint.path} has no lock file that"
            f" says what it comes from; {advice}"
        )
    if came_from != wanted:
        raise DistillationError(
            f"recipe '{plan.recipe.name}' starts from --init {wanted}, and {plan.checkpoint.path} comes from"
            f" {came_from}; {advice}"
        )


def _check_modules(plan: RunPlan) -> None:
    unet = open_unet(plan.teacher.checkpoint, plan.variant.value)
    shapes = {name: info.shape for name, info in unet.tensors.items()}
    for name, why in misfits(plan.config, sites_of(unet.config, shapes)).items():
        raise DistillationError(
            f"{plan.checkpoint.path} does not fit {plan.teacher.checkpoint.spec}: it replaces '{name}' {why}"
        )
    if plan.settings.keep_softmax >= len(plan.config.modules):
        raise DistillationError(
            f"keep_softmax {plan.settings.keep_softmax} would leave none of the {len(plan.config.modules)} layers linear"
        )
