"""Asking one plugin for everything that it declares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from linzoo.plugin import Entry, SpecError
from linzoo.plugin.spec import shown, with_article
from linzoo.registry.kinds import KINDS, Kind
from linzoo.registry.lint import place
from linzoo.registry.problems import Fault, brief
from linzoo.registry.trace import Tracer

Entries = dict[str, list[Entry]]


def collect(manager: pluggy.PluginManager, key: str, trace: Tracer) -> Entries:
    """Call the declaration hooks of one plugin and check what they return; generators run to their end here.

    Returns:
        The entries by the name of their kind. Nothing is registered yet.

    Raises:
        Fault: LZP301 to LZP308; whatever the hook raised is its cause.
    """
    entries: Entries = {}
    for kind in KINDS:
        found: dict[str, Entry] = {}
        for impl in getattr(manager.hook, kind.hook).get_hookimpls():
            if impl.plugin_name != key:
                continue
            for entry in _ask(kind, impl.function, key, trace):
                if entry.id in found:
                    words = {"hook": kind.hook, "id": entry.id, "type": kind.type.__name__}
                    raise Fault("LZP304", place(impl.function), **words)
                found[entry.id] = entry
        if found:
            entries[kind.name] = list(found.values())
    return entries


def _ask(kind: Kind, function: Any, key: str, trace: Tracer) -> list[Entry]:
    words = {"hook": kind.hook, "type": kind.type.__name__, "stage": kind.hook}
    try:
        with trace(kind.hook, key) as traced:
            answer = function()
            traced.answer = answer = list(answer) if _is_listing(answer) else answer
    except SpecError as error:
        raise Fault(error.code, cause=str(error), **words) from error
    except Exception as error:
        raise Fault("LZP308", cause=brief(error), **words) from error
    if not isinstance(answer, list):
        raise Fault("LZP301", place(function), got=describe(answer), **words)
    for index, item in enumerate(answer):
        if not isinstance(item, kind.type):
            raise Fault("LZP302", place(function), got=describe(item), index=index, **words)
    return answer


def _is_listing(answer: Any) -> bool:
    return isinstance(answer, Iterable) and not isinstance(answer, str | bytes | Mapping)


def describe(value: Any) -> str:
    """Name a value in a few words: ``None``, ``'sdxl'``, ``a Variant``, ``the class Variant``."""
    if value is None or isinstance(value, str | int | float):
        return shown(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return with_article(type(value).__name__)
