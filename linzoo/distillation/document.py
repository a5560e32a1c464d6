"""Recipes as YAML documents: read with presets and overrides, every fault at once with its place, and written again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from linzoo.checkpoints.digest import hash_document
from linzoo.distillation import yaml_text
from linzoo.distillation.errors import RecipeError
from linzoo.distillation.faults import Fault, dotted, explain, recipe_error, shown, suggestion
from linzoo.distillation.recipe import SCHEMA_VERSION, Recipe
from linzoo.distillation.settings import Mark, Settings

_FIXED = ("schema_version", "name", "variant", "presets")
"""What neither a preset nor ``--set`` changes."""


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with its preset and overrides applied.

    Attributes:
        recipe: the settings, without presets.
        source: the file that it was read from, or what the caller called it.
        preset: the preset that was applied.
        presets: names of those that the document has.
    """

    recipe: Recipe
    source: str
    preset: str | None
    presets: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the recipe is called."""
        return self.recipe.name

    @property
    def document(self) -> dict[str, Any]:
        """The settings as plain data, every default written out."""
        return to_document(self.recipe)

    @property
    def sha256(self) -> str:
        """Digest of the settings: that of every document that says the same, whatever its order and comments."""
        return hash_document(self.document)


def read_recipe(
    source: Path | str, *, preset: str | None = None, overrides: Sequence[str] = (), name: str = "recipe"
) -> ResolvedRecipe:
    """Read a recipe. All of its presets are checked, whichever is applied.

    Args:
        source: a file (a ``Path``), or the text of a document.
        preset: the preset to apply.
        overrides: settings that are stronger than those of document and preset, as ``distill.steps=2000``; what stands
            behind ``=`` is YAML.
        name: how faults call a ``source`` that is text.

    Raises:
        RecipeError: the file cannot be read, or settings are wrong; all of them are named, each with its place.
    """
    where = str(source) if isinstance(source, Path) else name
    settings, unread = yaml_text.parse(_text(source) if isinstance(source, Path) else source, where)
    if settings is None:
        raise recipe_error(unread, where)
    if wrong_version := _version_fault(settings):
        raise recipe_error([*unread, wrong_version], where)

    presets, wrong_presets = _presets(settings)
    layers, wrong_overrides = _overrides(overrides)
    faults = [*wrong_presets, *wrong_overrides]
    if preset is not None and preset not in presets:
        hint = suggestion(preset, list(presets), otherwise="it has") if presets else "leave --preset out"
        faults.append(Fault(Mark(f"--preset {preset}"), "", f"{where} has no such preset; {hint}"))
    base = settings.without("presets")
    own = _check(base)[1]
    for each, changes in presets.items():
        found = _check(base.merged(changes))[1]
        faults += (fault.only(f"preset {each}") for fault in found if fault not in own)
    chosen = base.merged(presets[preset]) if preset in presets else base
    recipe, with_overrides = _check(reduce(Settings.merged, layers, chosen))
    known = _check(chosen)[1]  # told above
    faults += [*own, *(fault for fault in with_overrides if fault not in known)]

    places = {(fault.mark, fault.path) for fault in unread}  # what stood there was replaced by null
    faults = [*unread, *(fault for fault in faults if (fault.mark, fault.path) not in places)]
    if faults or recipe is None:
        raise recipe_error(faults, where)
    return ResolvedRecipe(recipe, where, preset, tuple(presets))


def to_document(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, every default written out; presets only where it has some."""
    document = recipe.model_dump(mode="json")
    if not document["presets"]:
        del document["presets"]
    return document


def dump(recipe: Recipe) -> str:
    """A recipe as YAML; reading that gives an equal one."""
    return yaml_text.dump(to_document(recipe))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path} is no text in UTF-8 (byte {error.start}); a recipe is a YAML file"
        ) from error
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}: {error.strerror or error}") from error


def _version_fault(settings: Settings) -> Fault | None:
    """What another version of the schema would make of the other settings, nobody knows."""
    path, version = ("schema_version",), settings.data.get("schema_version")
    if "schema_version" not in settings.data:
        message = f"is missing; add 'schema_version: {SCHEMA_VERSION}'"
    elif isinstance(version, int) and version > SCHEMA_VERSION:
        message = f"{version} is newer than this linzoo reads ({SCHEMA_VERSION}); pip install -U linzoo"
    elif isinstance(version, bool) or version != SCHEMA_VERSION:
        message = f"{shown(version)} is no version of recipes; this linzoo reads {SCHEMA_VERSION}"
    else:
        return None
    return Fault(settings.mark(path), "schema_version", message)


def _presets(settings: Settings) -> tuple[dict[str, Settings], list[Fault]]:
    found = settings.data.get("presets", {})
    if not isinstance(found, dict):
        message = f"must be a section with a section for each preset, not {shown(found)}"
        return {}, [Fault(settings.mark(("presets",)), "presets", message)]
    presets: dict[str, Settings] = {}
    faults = []
    for name, changes in found.items():
        path = ("presets", name)
        if not isinstance(changes, dict):
            message = f"must be a section of settings, not {shown(changes)}"
            faults.append(Fault(settings.mark(path), dotted(path), message))
            continue
        presets[name] = settings.below(path)
        for key in set(changes) & set(_FIXED):
            faults.append(
                Fault(settings.mark((*path, key)), dotted((*path, key)), "no preset may change this")
            )
            presets[name] = presets[name].without(key)
    return presets, faults


def _overrides(overrides: Sequence[str]) -> tuple[list[Settings], list[Fault]]:
    """Each override as a tree of one setting."""
    layers, faults = [], []
    for override in overrides:
        mark = Mark(f"--set {override}")
        key, equals, value = override.partition("=")
        names = key.strip().split(".")
        if not equals or not all(names):
            faults.append(Fault(mark, "", "is not of the form section.key=value"))
        elif names[0] in _FIXED:
            faults.append(Fault(mark, "", f"{names[0]} cannot be set here; copy the recipe and edit it"))
        else:
            try:
                data = yaml_text.parse_value(value)
            except ValueError as error:
                faults.append(Fault(mark, "", str(error)))
                continue
            layers.append(_nested(names, data, mark))
    return layers, faults


def _nested(names: Sequence[str], value: Any, mark: Mark) -> Settings:
    for name in reversed(names):
        value = {name: value}
    return Settings(value, dict.fromkeys(_paths(value), mark))


def _paths(data: Mapping[str, Any]) -> list[tuple[str | int, ...]]:
    below = [(key, path) for key, value in data.items() if isinstance(value, dict) for path in _paths(value)]
    return [*((key,) for key in data), *((key, *path) for key, path in below)]


def _check(settings: Settings) -> tuple[Recipe | None, list[Fault]]:
    try:
        return Recipe.model_validate_json(json.dumps(settings.data), strict=True), []
    except ValidationError as error:
        return None, explain(error, settings)
