"""References to things that must not be imported or opened before they are used."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from linzoo.errors import PluginError
from linzoo.plugin.spec import Spec, SpecError, shown

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_TARGET = re.compile(rf"{_MODULE.pattern}:{_MODULE.pattern}")


@dataclass(frozen=True, slots=True)
class LazyRef(Spec):
    """A Python object by name, imported on first use.

    Args:
        target: ``"package.module:Name"``.
        hint: what to do when the import fails, for example ``"pip install einops"``.

    Raises:
        SpecError: ``target`` has another form.
    """

    target: str
    hint: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) or not _TARGET.fullmatch(self.target):
            raise SpecError(
                f"LazyRef.target must be of the form 'package.module:Name', got {shown(self.target)}",
                "LZP305",
            )
        Spec.__post_init__(self)

    def load(self) -> Any:
        """Import and return the object.

        Raises:
            PluginError: (LZP501) the module or the name in it cannot be had; the message carries the hint.
        """
        module, _, path = self.target.partition(":")
        try:
            value: Any = importlib.import_module(module)
            for name in path.split("."):
                value = getattr(value, name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            hint = f"\n  {self.hint}" if self.hint else ""
            raise PluginError(
                f"cannot load '{self.target}': {type(error).__name__}: {error} [LZP501]{hint}"
            ) from error
        return value


@dataclass(frozen=True, slots=True)
class Resource(Spec):
    """A file or folder that ships inside an installed package.

    Args:
        package: the package that holds it, for example ``"linzoo_sd15"``; it is not imported.
        path: where it lies inside the package, with ``/`` between the parts, for example ``"components"``.

    Raises:
        SpecError: ``package`` is no dotted name, or ``path`` leads out of the package.
    """

    package: str
    path: str

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        if not _MODULE.fullmatch(self.package):
            raise SpecError(f"Resource.package must be the name of a package, got {shown(self.package)}")
        place = PurePosixPath(self.path)
        if not self.path or "\\" in self.path or place.is_absolute() or ".." in place.parts:
            raise SpecError(
                f"Resource.path must be a relative path that stays in the package, got {shown(self.path)}"
            )

    def locate(self) -> Path:
        """Return where the resource lies on disk.

        Raises:
            PluginError: the package is not installed or holds no such file or folder.
        """
        try:
            spec = importlib.util.find_spec(self.package)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a package is imported on the way to what lies in it
            why = f"{type(error).__name__}: {error}"
            raise PluginError(
                f"cannot open resource '{self.path}': package '{self.package}' cannot be found ({why})"
            ) from error
        if spec is None:
            raise PluginError(
                f"cannot open resource '{self.path}': package '{self.package}' is not installed"
            )
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        for folder in folders:
            if (folder / self.path).exists():
                return folder / self.path
        looked = ", ".join(str(folder) for folder in folders) or "it is a module, not a package"
        raise PluginError(f"package '{self.package}' does not hold '{self.path}' ({looked}); reinstall it")
