"""The last pass over what plugins declared: do the ids that entries name exist, and do variants form no circle?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from linzoo.plugin import AttentionPlan, DistillRecipe, Encoder, Entry, InitRecipe, Variant
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
    order: TopologicalSorter[Registered[Variant]] = TopologicalSorter()
    for here in variants:
        for name in _earlier(here.value):
            with contextlib.suppress(AmbiguousIdError):
                order.add(variants.resolve(name, here.plugin), here)
    try:
        order.prepare()
    except CycleError as error:
        path = _from_first(error.args[1][:-1], variants)
        words = " -> ".join(f"'{each.value.id}'" for each in [*path, path[0]])
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
    elif isinstance(entry, Encoder):
        for variant in entry.variants:
            yield "variants", variant


def _earlier(variant: Variant) -> tuple[str, ...]:
    """The variants that one must come before, when both match a checkpoint."""
    return (*([variant.refines] if variant.refines is not None else []), *variant.before)


def _from_first(
    circle: Sequence[Registered[Variant]], variants: Catalog[Variant]
) -> list[Registered[Variant]]:
    """The circle, told from the one of its variants that lists show first."""
    start = circle.index(next(each for each in variants if each in circle))
    return [*circle[start:], *circle[:start]]
