"""The built-in index: the LinFusion checkpoints that the variants of installed plugins declare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.linfusion import GENERALIZED_LINEAR, LinFusionConfig
from linzoo.checkpoints.lock import read_lock
from linzoo.errors import CheckpointError
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.facts import entry_of
from linzoo.zoo.index import Index

if TYPE_CHECKING:
    from linzoo.plugin import Variant
    from linzoo.registry import Registry

BUILT_IN = "built-in"


def builtin_index(registry: Registry) -> Index:
    """List what plugins ship, and the published weights that they name, of which little is known without a network."""
    return Index(
        BUILT_IN, tuple(entry for each in registry.variants for entry in _declared(each.value, registry))
    )


def _declared(variant: Variant, registry: Registry) -> Iterator[ZooEntry]:
    for name, resource in variant.local_linfusion.items():
        with contextlib.suppress(CheckpointError):  # a plugin with damaged files must not hide the others
            yield _shipped(name, resource.locate(), variant, registry)
    for base, repo in variant.linfusion.items():
        yield ZooEntry(repo=repo, commit=None, variant=variant.id, base=base, mixers=(GENERALIZED_LINEAR,))


def _shipped(name: str, folder: Path, variant: Variant, registry: Registry) -> ZooEntry:
    config = LinFusionConfig.from_folder(folder)
    lock = read_lock(folder) or {"outputs": {}, "detection": {"variant": variant.id}}
    return entry_of(lock, config, registry, repo=name, commit=None, license=variant.license, measures={})
