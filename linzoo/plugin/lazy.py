"""References to things that must not be imported or opened before they are used."""

from __future__ import annotations

import importlib
import importlib.resources
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linzoo.errors import PluginError

_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class SpecError(ValueError):
    """What a plugin declares is malformed; the message is written for the plugin's author."""


@dataclass(frozen=True, slots=True)
class LazyRef:
    """A Python object by name, imported on first use.

    Args:
        target: ``"package.module:Name"``.
        hint: what to do when the import fails, for example ``"pip install linzoo[train]"``.

    Raises:
        SpecError: ``target`` has another form.
    """

    target: str
    hint: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not _TARGET.fullmatch(self.target):
            raise SpecError(f"LazyRef target {self.target!r} is not of the form 'package.module:Name'")

    def load(self) -> Any:
        """Import and return the object.

        Raises:
            PluginError: the module or the name in it cannot be had; the message carries the hint.
        """
        module, _, path = self.target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for name in path.split("."):
                value = getattr(value, name)
        except (ImportError, AttributeError) as error:
            hint = f"\n  {self.hint}" if self.hint else ""
            raise PluginError(
                f"cannot load '{self.target}': {type(error).__name__}: {error}{hint}"
            ) from error
        return value


@dataclass(frozen=True, slots=True)
class Resource:
    """A file or folder that ships inside an installed package, for example ``Resource("linzoo_sd15", "components")``."""

    package: str
    path: str

    def locate(self) -> Path:
        """Return where the resource lies on disk.

        Raises:
            PluginError: the package is not installed or holds no such file or folder.
        """
        try:
            place = Path(str(importlib.resources.files(self.package))) / self.path
        except ImportError as error:
            raise PluginError(
                f"cannot open resource '{self.path}': package '{self.package}' is not installed"
            ) from error
        if not place.exists():
            raise PluginError(f"package '{self.package}' does not hold '{self.path}' ({place}); reinstall it")
        return place
