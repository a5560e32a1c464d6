"""The last pass over what plugins declared: do the ids that entries name exist, and do variants form no circle?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from linzoo.plugin import AttentionPlan, DistillRecipe, Entry, InitRecipe, Variant
from linzoo.registry.catalog import AmbiguousIdError, Catalog, Registered, UnknownIdError
from linzoo.registry.kinds import KINDS
from linzoo.registry.problems import Fault
from linzoo.registry.status import PluginStatus

Catalogs = Mapping[str, Catalog[Any]]


def find_dangling(catalogs: Catalogs) -> tuple[PluginStatus, Fault] | None:
    """Find a plugin with an entry that names something nobody provides (LZP401).

    A name that several plugins provide is no fault of the plugin that uses it.
    """
    for kind in KINDS:
        for registered in catalogs[kind.name]:
            for target, name in _references(registered.value):
                try:
                    catalogs[target].resolve(name, registered.plugin)
                except AmbiguousIdError:
                    continue
                except UnknownIdError:
                    wanted = catalogs[target]
                    return registered.plugin, Fault(
                        "LZP401",
                        what=f"{kind.word} '{registered.value.id}'",
                        kind=wanted.word,
                        id=name,
                        suggestion="\n  ".join(wanted.hints(name)),
                    )
    return None


def find_circle(variants: Catalog[Variant]) -> tuple[PluginStatus, Fault] | None:
    """Find variants whose ``refines`` and ``before`` lead back to themselves (LZP402)."""
    done: set[str] = set()
    for start in variants:
        path = _walk(variants, start, [], done)
        if path:
            words = " -> ".join(f"'{each.value.id}'" for each in path)
            return path[0].plugin, Fault("LZP402", path=words)
    return None


def _references(entry: Entry) -> Iterator[tuple[str, str]]:
    """The entries that an entry names, each as kind and id."""
    if isinstance(entry, Variant):
        yield "plans", entry.default_plan
        yield "inits", entry.default_init
        if entry.default_distill is not None:
            yield "recipes", entry.default_distill
        for name in _earlier(entry):
            yield "variants", name
    elif isinstance(entry, AttentionPlan):
        yield "variants", entry.variant
        for rule in entry.rules:
            yield "mixers", rule.mixer
    elif isinstance(entry, InitRecipe):
        for mixer in entry.mixers:
            yield "mixers", mixer
    elif isinstance(entry, DistillRecipe):
        yield "variants", entry.variant


def _earlier(variant: Variant) -> tuple[str, ...]:
    """The variants that one must come before, when both match a checkpoint."""
    return (*([variant.refines] if variant.refines is not None else []), *variant.before)


def _walk(
    variants: Catalog[Variant],
    here: Registered[Variant],
    path: list[Registered[Variant]],
    done: set[str],
) -> list[Registered[Variant]]:
    """Depth first; return the circle that ``here`` closes, or nothing."""
    if here in path:
        return [*path[path.index(here) :], here]
    if here.full_id in done:
        return []
    for name in _earlier(here.value):
        try:
            following = variants.resolve(name, here.plugin)
        except AmbiguousIdError:
            continue
        circle = _walk(variants, following, [*path, here], done)
        if circle:
            return circle
    done.add(here.full_id)
    return []
