"""Finding, loading and checking plugins, and looking up what they provide. Nothing in here is heavy.

What it offers is imported on first use: the list of commands in ``linzoo --help`` needs the metadata of plugins alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linzoo.registry.building import BUILTINS, build_registry
    from linzoo.registry.catalog import AmbiguousIdError, Catalog, Registered, UnknownIdError
    from linzoo.registry.registry import Registry
    from linzoo.registry.status import PluginStatus

_HOMES = {
    "BUILTINS": "building",
    "AmbiguousIdError": "catalog",
    "Catalog": "catalog",
    "PluginStatus": "status",
    "Registered": "catalog",
    "Registry": "registry",
    "UnknownIdError": "catalog",
    "build_registry": "building",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'linzoo.registry' has no attribute {name!r}")
    return getattr(importlib.import_module(f"linzoo.registry.{_HOMES[name]}"), name)
