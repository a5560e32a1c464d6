"""What lowers the memory of a run, in the order of what it costs, with figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from linzoo.distillation.arithmetic import Arithmetic
from linzoo.distillation.estimates import GB
from linzoo.distillation.recipe import Recipe, Section

_SMALL = (512, 512)


@dataclass(frozen=True)
class Remedy:
    """A rung of the ladder.

    Attributes:
        settings: what to set, as ``--set`` takes it.
        price: what it costs.
        nbytes: memory with this remedy and all before it.
    """

    settings: tuple[str, ...]
    price: str
    nbytes: int


def ladder(arithmetic: Arithmetic) -> list[Remedy]:
    """The remedies that the recipe has not taken yet and that lower its memory, cheapest first; each adds to those before."""
    recipe, before = arithmetic.recipe, arithmetic.memory(arithmetic.recipe)
    remedies = []
    for step in _STEPS:
        changed, settings, price = step(recipe)
        if not settings:
            continue
        nbytes = arithmetic.memory(changed)
        if nbytes < before:
            remedies.append(Remedy(settings, price, nbytes))
            recipe, before = changed, nbytes
    return remedies


def render_ladder(remedies: list[Remedy], now: int) -> str:
    """The ladder as text; ``now`` is the memory without any of it."""
    if not remedies:
        return f"Estimated: {now / GB:.1f} GB. Everything that lowers it is set already; a larger card is needed."
    lines = [f"Estimated: {now / GB:.1f} GB. What lowers it, each with those above it:"]
    for each in remedies:
        options = " ".join(f"--set {setting}" for setting in each.settings)
        lines.append(f"  {each.nbytes / GB:5.1f} GB  {options}  ({each.price})")
    return "\n".join(lines)


_Step = Callable[[Recipe], tuple[Recipe, tuple[str, ...], str]]


def _average_on_cpu(recipe: Recipe) -> tuple[Recipe, tuple[str, ...], str]:
    distill = recipe.distill
    if distill is None or distill.ema is None or distill.ema.device == "cpu":
        return recipe, (), ""
    changed = _changed(recipe, distill=_changed(distill, ema=_changed(distill.ema, device="cpu")))
    return changed, ("distill.ema.device=cpu",), "a copy to host memory each step"


def _checkpointing(recipe: Recipe) -> tuple[Recipe, tuple[str, ...], str]:
    if recipe.gradient_checkpointing or recipe.distill is None:
        return recipe, (), ""
    changed = _changed(recipe, gradient_checkpointing=True)
    return changed, ("gradient_checkpointing=true",), "about a third more time, the same result"


def _one_at_once(recipe: Recipe) -> tuple[Recipe, tuple[str, ...], str]:
    stages = {"align": recipe.align, "distill": recipe.distill}
    large = {name: stage for name, stage in stages.items() if stage is not None and stage.micro_batch != 1}
    changed = _changed(recipe, **{name: _changed(stage, micro_batch=1) for name, stage in large.items()})
    return changed, tuple(f"{name}.micro_batch=1" for name in large), "more time, the same result"


def _eight_bits(recipe: Recipe) -> tuple[Recipe, tuple[str, ...], str]:
    stages = {"align": recipe.align, "distill": recipe.distill}
    wide = {
        name: stage for name, stage in stages.items() if stage is not None and stage.optimizer.name == "adamw"
    }
    changes: dict[str, Any] = {
        name: _changed(stage, optimizer=_changed(stage.optimizer, name="adamw8bit"))
        for name, stage in wide.items()
    }
    settings = tuple(f"{name}.optimizer.name=adamw8bit" for name in wide)
    return _changed(recipe, **changes), settings, "rounded moments; pip install 'linzoo[8bit]'"


def _no_finish(recipe: Recipe) -> tuple[Recipe, tuple[str, ...], str]:
    if recipe.distill is None or recipe.distill.finish is None:
        return recipe, (), ""
    changed = _changed(recipe, distill=_changed(recipe.distill, finish=None))
    return changed, ("distill.finish=null",), "no training at the larger sizes"


def _small(recipe: Recipe) -> tuple[Recipe, tuple[str, ...], str]:
    if recipe.data.size is not None and max(recipe.data.size) <= max(_SMALL):
        return recipe, (), ""
    changed = _changed(recipe, data=_changed(recipe.data, size=_SMALL))
    return changed, (f"data.size=[{_SMALL[0]},{_SMALL[1]}]",), "training at a smaller size"


_STEPS: tuple[_Step, ...] = (_average_on_cpu, _checkpointing, _one_at_once, _eight_bits, _no_finish, _small)


def _changed(section: Section, **changes: Any) -> Any:
    return section.model_copy(update=changes)
