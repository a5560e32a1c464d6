"""All checkpoints that are known: those of the indexes that the user names, then the built-in ones; and searching them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.address import on_hub
from linzoo.zoo.builtin import builtin_index
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.index import open_index

if TYPE_CHECKING:
    from linzoo.registry import Registry

VARIABLE = "LINZOO_ZOO"
"""Names indexes, separated by commas, for when none is named otherwise."""


@dataclass(frozen=True)
class Listed:
    """A checkpoint, and the index that lists it."""

    entry: ZooEntry
    index: str


@dataclass(frozen=True)
class Query:
    """What to search for; an empty text stands for anything.

    Attributes:
        text: words that are in the entry, in any of its names.
        base: a part of the base model's id, or its base hash.
        variant: id of the variant.
        mixer: id of a mixer that is in it.
        license: id or name of the licence.
    """

    text: str = ""
    base: str = ""
    variant: str = ""
    mixer: str = ""
    license: str = ""

    def matches(self, entry: ZooEntry) -> bool:
        """Whether an entry is what is searched for; upper and lower case are the same."""
        names = [
            entry.repo,
            entry.base,
            entry.variant,
            *entry.mixers,
            entry.plan,
            entry.recipe,
            entry.license,
        ]
        text = " ".join(filter(None, names)).lower()
        return (
            all(word in text for word in self.text.lower().split())
            and (self.base.lower() in (entry.base or "").lower() or self.base == entry.base_hash)
            and self.variant in ("", entry.variant)
            and (not self.mixer or self.mixer in entry.mixers)
            and self.license.lower() in ("", (entry.license or "").lower())
        )


def named_indexes(given: Sequence[str | Path], env: Mapping[str, str] = os.environ) -> list[str]:
    """The indexes to read besides the built-in one: those that are given, else those that ``LINZOO_ZOO`` names."""
    if given:
        return list(map(str, given))
    return [name.strip() for name in env.get(VARIABLE, "").split(",") if name.strip()]


def list_checkpoints(indexes: Iterable[str], registry: Registry) -> list[Listed]:
    """Every checkpoint once, as the first index that has it lists it, by variant and repository.

    Raises:
        ZooError: an index is malformed.
        CheckpointError: an index cannot be read.
    """
    found: dict[str, Listed] = {}
    for index in (*map(open_index, indexes), builtin_index(registry)):
        for entry in index.entries:
            found.setdefault(entry.repo, Listed(entry, index.where))
    return sorted(found.values(), key=lambda each: (each.entry.variant, each.entry.repo))


def find_checkpoint(repo: str, listed: Sequence[Listed]) -> Listed:
    """The checkpoint of one name.

    Raises:
        ZooError: none is listed by it.
    """
    address = on_hub(repo)
    repo = repo if address is None else address.repo
    named = {each.entry.repo: each for each in listed}
    if repo not in named:
        close = difflib.get_close_matches(repo, named, n=1)
        said = f"; did you mean '{close[0]}'?" if close else "; 'linzoo zoo list' shows what is"
        raise ZooError(f"{repo} is in no index{said}")
    found = named[repo]
    if address is not None and address.revision not in (None, found.entry.commit):
        raise ZooError(f"{address} is in no index; {repo} is listed at {found.entry.commit}")
    return found
