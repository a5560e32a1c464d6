"""Looking entries up by id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from linzoo.errors import PluginError
from linzoo.plugin import Entry
from linzoo.registry.candidates import normalise
from linzoo.registry.status import PluginStatus

E = TypeVar("E", bound=Entry)


class UnknownIdError(PluginError):
    """No plugin provides the id; the message has close ones, and the broken plugins that might."""


class AmbiguousIdError(PluginError):
    """Two plugins provide the id; the message has the full names that tell them apart."""


@dataclass(frozen=True, slots=True, eq=False)
class Registered(Generic[E]):
    """An entry with the plugin that it came from."""

    value: E
    plugin: PluginStatus

    @property
    def full_id(self) -> str:
        """The name that is never ambiguous: ``linzoo-kolors::kolors``; ``dist:entry-point::id`` where it takes that."""
        candidate = self.plugin.candidate
        return f"{candidate.dist if candidate.alone else candidate.key}::{self.value.id}"

    def is_from(self, plugin: str) -> bool:
        """Say whether a name means its plugin: the distribution, or ``distribution:entry-point``."""
        return normalise(plugin) in {normalise(self.plugin.name), normalise(self.plugin.candidate.key)}


def hints(name: str, known: Iterable[Registered[Any]], plugins: Iterable[PluginStatus]) -> list[str]:
    """Ids that are close to one that is not there, and the plugins that might have provided it, on a line each."""
    ids = {spelling: None for each in known for spelling in (each.value.id, each.full_id)}
    close = difflib.get_close_matches(name, ids, 3, 0.6)
    lines = [f"did you mean {' or '.join(repr(each) for each in close)}?"] if close else []
    for plugin in plugins:
        if plugin.state == "broken":
            lines.append(f"plugin {plugin.label} failed to load and may provide it: {plugin.problem}")
        elif plugin.state == "disabled":
            lines.append(f"plugin {plugin.label} is disabled and may provide it")
    return lines or ["all ids: linzoo list"]


class Catalog(Generic[E]):
    """All entries of one kind, sorted by id.

    ``catalog["turbo"]`` or ``catalog["linzoo-a::turbo"]`` finds one; a built-in wins a short name.
    """

    def __init__(self, word: str, entries: Iterable[Registered[E]], plugins: Sequence[PluginStatus]) -> None:
        self.word = word
        self._entries = tuple(sorted(entries, key=lambda each: (each.value.id, normalise(each.plugin.name))))
        self._plugins = plugins
        self._by_id: dict[str, list[Registered[E]]] = {}
        for each in self._entries:
            self._by_id.setdefault(each.value.id, []).append(each)

    def __iter__(self) -> Iterator[Registered[E]]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> Registered[E]:
        """Find an entry by its id or full name.

        Raises:
            UnknownIdError: nobody provides it.
            AmbiguousIdError: several plugins do, and none is a built-in.
        """
        return self.resolve(name)

    def get_value(self, name: str) -> E:
        """Find an entry, without the plugin that it came from."""
        return self[name].value

    def resolve(self, name: str, home: PluginStatus | None = None) -> Registered[E]:
        """Find an entry as a plugin's own references do: what the plugin itself provides comes first."""
        hits = self._hits(name)
        found = self.winner([hit for hit in hits if hit.plugin is home]) or self.winner(hits)
        if found:
            return found
        if hits:
            raise AmbiguousIdError(self._ambiguous(name, hits))
        raise UnknownIdError("\n  ".join([f"unknown {self.word} '{name}'", *self.hints(name)]))

    @staticmethod
    def winner(hits: Sequence[Registered[E]]) -> Registered[E] | None:
        """Of entries with one id, the one that the short name means: the only one, or the only built-in."""
        builtin = [hit for hit in hits if hit.plugin.origin == "built-in"]
        return next((choice[0] for choice in (hits, builtin) if len(choice) == 1), None)

    def shared_ids(self) -> dict[str, list[Registered[E]]]:
        """The ids that more than one plugin provides."""
        return {id: group for id, group in self._by_id.items() if len(group) > 1}

    def hints(self, name: str) -> list[str]:
        """What may help somebody who asked for an id that is not there."""
        return hints(name, self, self._plugins)

    def _hits(self, name: str) -> list[Registered[E]]:
        plugin, qualified, id = name.rpartition("::")
        return [each for each in self._by_id.get(id, ()) if not qualified or each.is_from(plugin)]

    def _ambiguous(self, name: str, hits: list[Registered[E]]) -> str:
        lines = [f"{self.word} '{name}' is provided by {len(hits)} plugins [LZP403]"]
        lines += [f"  {hit.plugin.label}: use '{hit.full_id}'" for hit in hits]
        return "\n".join(lines)
