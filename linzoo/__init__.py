"""linzoo: a plugin-based model zoo and conversion toolkit for LinFusion.

The public functions are imported on first use, so that ``import linzoo`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from linzoo._version import __version__
from linzoo.errors import LinzooError

if TYPE_CHECKING:
    from linzoo.attention.handle import Handle, load
    from linzoo.checkpoints.detection import inspect
    from linzoo.distillation.run import distill
    from linzoo.hub.push import push
    from linzoo.hub.verify import verify
    from linzoo.init.convert import convert
    from linzoo.registry import build_registry
    from linzoo.validation.run import validate

_PUBLIC = {
    "Handle": "linzoo.attention.handle",
    "build_registry": "linzoo.registry",
    "convert": "linzoo.init.convert",
    "distill": "linzoo.distillation.run",
    "inspect": "linzoo.checkpoints.detection",
    "load": "linzoo.attention.handle",
    "push": "linzoo.hub.push",
    "validate": "linzoo.validation.run",
    "verify": "linzoo.hub.verify",
}

__all__ = [
    "Handle",
    "LinzooError",
    "__version__",
    "build_registry",
    "convert",
    "distill",
    "inspect",
    "load",
    "push",
    "validate",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'linzoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
