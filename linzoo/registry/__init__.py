"""Finding, loading and checking plugins, and looking up what they provide. Nothing in here is heavy."""

from __future__ import annotations

from linzoo.registry.building import BUILTINS, build_registry
from linzoo.registry.catalog import AmbiguousIdError, Catalog, Registered, UnknownIdError
from linzoo.registry.registry import Registry
from linzoo.registry.status import PluginStatus

__all__ = [
    "BUILTINS",
    "AmbiguousIdError",
    "Catalog",
    "PluginStatus",
    "Registered",
    "Registry",
    "UnknownIdError",
    "build_registry",
]
