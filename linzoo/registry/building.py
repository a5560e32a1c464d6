"""Building the registry: discover, filter, load, commit, cross-check."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from linzoo.plugin import hookspecs
from linzoo.registry.candidates import (
    COMMANDS_GROUP,
    Candidate,
    builtin_candidates,
    file_candidates,
    installed_candidates,
)
from linzoo.registry.catalog import Catalog, Registered
from linzoo.registry.collecting import Entries
from linzoo.registry.kinds import KINDS
from linzoo.registry.loading import Loader
from linzoo.registry.problems import make_problem
from linzoo.registry.references import find_circle, find_dangling
from linzoo.registry.registry import Registry
from linzoo.registry.status import PluginStatus
from linzoo.registry.switches import Switches
from linzoo.registry.trace import aloud, silent

BUILTINS = (
    "linzoo_sd15",
    "linzoo_sd21",
    "linzoo_sdxl",
    "linzoo_mixers",
    "linzoo_checks",
    "linzoo_mini",
    "linzoo.checkpoints.teacher",
)

Loaded = Sequence[tuple[PluginStatus, Entries]]


def build_registry(
    *,
    builtins: Sequence[str] = BUILTINS,
    entry_points: bool = True,
    paths: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
) -> Registry:
    """Load all plugins and return what they provide. A broken plugin is noted, and stops nothing else.

    Args:
        builtins: names of modules that take the same road as installed plugins, and come first.
        entry_points: also load the plugins of installed distributions (entry-point group ``linzoo``).
        paths: one-file plugins to load as well. Nothing is ever loaded from the current directory by itself.
        env: where the ``LINZOO_…PLUGINS`` switches are read from; None for ``os.environ``.

    Raises:
        PluginError: a plugin has a problem, and ``LINZOO_STRICT_PLUGINS`` is set.
    """
    switches = Switches.read(os.environ if env is None else env)
    candidates = _candidates(builtins, entry_points, paths)
    trace = aloud if switches.trace else silent
    manager = pluggy.PluginManager("linzoo")
    manager.add_hookspecs(hookspecs)
    loader = Loader(manager, switches, trace)
    loaded = [loader.load(candidate) for candidate in candidates]
    catalogs = _commit(loaded)
    while fault := find_dangling(catalogs) or find_circle(catalogs["variants"]):
        loader.refuse(*fault)
        catalogs = _commit(loaded)
    _note_shared_ids(catalogs.values(), loader)
    if entry_points and (switches.allow or switches.deny):
        candidates += installed_candidates(
            COMMANDS_GROUP
        )  # the switches may name a plugin that adds commands alone
    return Registry(manager, [status for status, _ in loaded], catalogs, switches.warnings(candidates), trace)


def find_candidates(paths: Sequence[str | Path] = ()) -> list[tuple[Candidate, bool]]:
    """Everything that :func:`build_registry` would look at, and whether it would load it; imports nothing."""
    switches = Switches.read(os.environ)
    return [(each, switches.admit(each)) for each in _candidates(BUILTINS, True, paths)]


def _candidates(builtins: Sequence[str], entry_points: bool, paths: Sequence[str | Path]) -> list[Candidate]:
    return [
        *builtin_candidates(builtins),
        *(installed_candidates() if entry_points else ()),
        *file_candidates(paths),
    ]


def _commit(loaded: Loaded) -> dict[str, Catalog[Any]]:
    """Make the catalogs of the entries of all plugins that are whole."""
    plugins = [status for status, _ in loaded]
    return {
        kind.name: Catalog(
            kind.word,
            [
                Registered(value, status)
                for status, entries in loaded
                if status.state == "ok"
                for value in entries.get(kind.name, ())
            ],
            plugins,
        )
        for kind in KINDS
    }


def _note_shared_ids(catalogs: Iterable[Catalog[Any]], loader: Loader) -> None:
    for catalog in catalogs:
        for id, group in catalog.shared_ids().items():
            for each in [each for each in group if each is not catalog.winner(group)]:
                others = ", ".join(other.plugin.label for other in group if other is not each)
                words = {"kind": catalog.word, "id": id, "others": others, "full_id": each.full_id}
                problem = make_problem("LZP403", each.plugin.name, each.plugin.version, **words)
                each.plugin.note(problem)
                loader.enforce(problem)
