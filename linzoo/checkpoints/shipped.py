"""Models that a lock file names, found again: on the Hub, or by their bytes among what installed plugins ship."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.digest import Stamp, digest, stamp_of
from linzoo.checkpoints.lock import address_of, at

if TYPE_CHECKING:
    from linzoo.plugin import Variant
    from linzoo.registry import Registry


@dataclass(frozen=True)
class Shipped:
    """A model inside an installed package.

    Attributes:
        name: what SOURCE calls it.
        variant: which declares it.
    """

    name: str
    variant: Variant


def source_of(record: Mapping[str, Any], registry: Registry) -> str | None:
    """The SOURCE that a record is of: at its commit on the Hub, or what ships with a plugin; None for another local file.

    Args:
        record: what :func:`linzoo.checkpoints.lock.describe_source` wrote.
        registry: whose variants ship models.
    """
    if (address := address_of(record)) is not None:
        return str(address)
    shipped = shipped_under(record, registry)
    return None if shipped is None else shipped.name


def named_source(record: Mapping[str, Any], registry: Registry) -> str:
    """How people are told of a recorded model: its SOURCE, the name of a local file, or what little is known."""
    files = record.get("files")
    names = [*files] if isinstance(files, Mapping) else []
    local = names[0] if len(names) == 1 else "a local folder" if names else "a model that is not named"
    return source_of(record, registry) or local


def shipped_under(record: Mapping[str, Any], registry: Registry) -> Shipped | None:
    """The shipped model whose files a lock file records as a source; None where that is none of them.

    Args:
        record: what :func:`linzoo.checkpoints.lock.describe_source` wrote.
        registry: whose variants ship models.
    """
    files = record.get("files")
    if not isinstance(files, Mapping):
        return None
    for entry in registry.variants:
        for models in (entry.value.local_teachers, entry.value.local_linfusion):
            for name, resource in models.items():
                if _holds(resource.locate(), files):
                    return Shipped(name, entry.value)
    return None


def _holds(model: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    if model.is_file():  # which may have had another name
        return len(files) == 1 and all(_is(model, recorded) for recorded in files.values())
    return bool(files) and all(_is(model / name, recorded) for name, recorded in files.items())


def _is(path: Path, recorded: Mapping[str, Any]) -> bool:
    """Whether a file is the recorded one; the size, where it is recorded, spares reading most that are not."""
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        if path.is_file() and at(recorded, "bytes") in (None, path.stat().st_size):
            return bool(_sum(path, stamp_of(path)) == at(recorded, "sha256"))
    return False


@lru_cache
def _sum(path: Path, stamp: Stamp) -> str:  # noqa: ARG001 (another stamp means other content)
    return digest(path).sha256
