"""Asking one plugin for everything that it declares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
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
            if impl.plugin_name == key:
                with _guard(kind), trace(kind.hook, key) as traced:
                    traced.answer = [*_ask(kind, impl.function, found)]
        if found:
            entries[kind.name] = list(found.values())
    return entries


@contextlib.contextmanager
def _guard(kind: Kind) -> Iterator[None]:
    try:
        yield
    except (Fault, SystemExit, KeyboardInterrupt):
        raise
    except SpecError as error:
        raise Fault.of_spec(error, kind.hook) from error
    except BaseException as error:
        raise Fault("LZP308", hook=kind.hook, cause=brief(error)) from error


def _ask(kind: Kind, function: Any, found: dict[str, Entry]) -> Iterator[Entry]:
    """Add what one function declares to ``found``; each entry is looked at before the next is asked for."""
    words = {"hook": kind.hook, "type": kind.type.__name__}
    answer = function()
    if not isinstance(answer, Iterable) or isinstance(answer, str | bytes | Mapping):
        raise Fault("LZP301", place(function), got=describe(answer), **words)
    for index, item in enumerate(answer):
        if not isinstance(item, kind.type):
            raise Fault("LZP302", place(function), got=describe(item), index=index, **words)
        kind.type.__post_init__(item)  # a subclass may have left its fields unchecked
        if item.id in found:
            raise Fault("LZP304", place(function), id=item.id, **words)
        found[item.id] = item
        yield item


def describe(value: Any) -> str:
    """Name a value in a few words: ``None``, ``'sdxl'``, ``a Variant``, ``the class Variant``."""
    if value is None or isinstance(value, str | int | float):
        return shown(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return with_article(type(value).__name__)
