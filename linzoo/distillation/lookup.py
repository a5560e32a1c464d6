"""Finding a recipe: by the id that a plugin gave it, as a file, or as what a variant is distilled by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.distillation.document import ResolvedRecipe, read_recipe
from linzoo.distillation.errors import RecipeError
from linzoo.errors import PluginError, UsageError

if TYPE_CHECKING:
    from linzoo.plugin import Variant
    from linzoo.registry import Registered, Registry

_SUFFIXES = (".yaml", ".yml")


def find_recipe(
    name: str | Path | None,
    registry: Registry,
    *,
    variant: Registered[Variant] | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
) -> ResolvedRecipe:
    """Find and read a recipe.

    Args:
        name: id of a recipe, or a YAML file; None for the default of ``variant``.
        registry: where ids are looked up.
        variant: the variant of the checkpoint that is to be distilled.
        preset: see :func:`~linzoo.distillation.document.read_recipe`.
        overrides: the same.

    Raises:
        RecipeError: the recipe cannot be read, is wrong, or names a variant or init recipe that nobody provides.
        UnknownIdError: no plugin provides a recipe of that id.
        UsageError: None was given, and the variant has no default.
    """
    path = locate_recipe(name, registry, variant=variant)
    resolved = read_recipe(path, preset=preset, overrides=overrides)
    _check_ids(resolved, registry)
    return resolved


def locate_recipe(
    name: str | Path | None, registry: Registry, *, variant: Registered[Variant] | None = None
) -> Path:
    """Find a recipe's file; see :func:`find_recipe`."""
    if name is None:
        return _default(variant, registry)
    path = Path(name)
    if path.suffix in _SUFFIXES or path.exists() or len(path.parts) > 1:
        return path
    return registry.distill_recipes[str(name)].value.document.locate()


def _default(variant: Registered[Variant] | None, registry: Registry) -> Path:
    if variant is None or variant.value.default_distill is None:
        who = (
            f"variant '{variant.value.id}' has no distill recipe of its own"
            if variant
            else "no recipe was named"
        )
        raise UsageError(f"{who}; name one with --recipe (linzoo recipes ls)")
    chosen = registry.distill_recipes.resolve(variant.value.default_distill, variant.plugin)
    return chosen.value.document.locate()


def _check_ids(resolved: ResolvedRecipe, registry: Registry) -> None:
    """The ids that a recipe names must be those of entries."""
    recipe, wrong = resolved.recipe, []
    for key, id, catalog in (
        ("variant", recipe.variant, registry.variants),
        ("start", recipe.start, registry.inits),
    ):
        try:
            if id is not None:
                catalog.resolve(id)
        except PluginError as error:
            wrong.append(f"{resolved.source}: {key}: {error}")
    if wrong:
        raise RecipeError("\n".join(wrong))
