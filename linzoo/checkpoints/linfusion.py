"""A LinFusion checkpoint on disk: the replaced modules alone, in the layout of the official code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linzoo.checkpoints.folder import read_json
from linzoo.errors import CheckpointError
from linzoo.plugin import FrozenMap, thaw

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
GENERALIZED_LINEAR = "generalized-linear"

_CLASS_NAME = "LinFusion"
_MOST_MODULES = 10_000


@dataclass(frozen=True)
class ModuleEntry:
    """One replaced module, as ``modules_list`` in ``config.json`` describes it.

    Attributes:
        module_name: the attention module that it stands for, by diffusers name.
        dim_n: width C of its tokens.
        heads: number of heads.
        projection_mid_dim: width m of the branches of generalized linear attention; None for C, -1 for no branch.
        mixer: id of the mixer.
        options: options of a mixer other than generalized linear attention.
    """

    module_name: str
    dim_n: int
    heads: int
    projection_mid_dim: int | None = None
    mixer: str = GENERALIZED_LINEAR
    options: Mapping[str, Any] = field(default_factory=FrozenMap)

    @property
    def mixer_options(self) -> dict[str, Any]:
        """The options to make the mixer with."""
        if self.mixer == GENERALIZED_LINEAR:
            return {"projection_mid_dim": self.projection_mid_dim}
        return dict(thaw(self.options))

    def to_json(self) -> dict[str, Any]:
        """Return the entry as the official code writes it; other mixers add ``mixer`` and ``options``."""
        entry: dict[str, Any] = {
            "module_name": self.module_name,
            "dim_n": self.dim_n,
            "heads": self.heads,
            "projection_mid_dim": self.projection_mid_dim,
        }
        if self.mixer != GENERALIZED_LINEAR:
            entry |= {"mixer": self.mixer, "options": thaw(self.options)}
        return entry


@dataclass(frozen=True)
class LinFusionConfig:
    """``config.json`` of a LinFusion checkpoint.

    Attributes:
        modules: the replaced modules; tensor names begin with a module's place in this list.
    """

    modules: tuple[ModuleEntry, ...]

    @classmethod
    def from_folder(cls, folder: Path) -> LinFusionConfig:
        """Read the config of a LinFusion checkpoint.

        Raises:
            CheckpointError: it is missing, damaged, or the config of something else.
        """
        return cls.from_json(read_json(folder / CONFIG_NAME), str(folder / CONFIG_NAME))

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str) -> LinFusionConfig:
        """Check a config and return it.

        Args:
            document: the parsed JSON.
            where: how errors name it.

        Raises:
            CheckpointError: see :meth:`from_folder`.
        """
        entries = document.get("modules_list")
        if not isinstance(entries, list | tuple) or not 0 < len(entries) <= _MOST_MODULES:
            raise CheckpointError(
                f"{where}: has no 'modules_list' (its class is {document.get('_class_name')!r});"
                " this is no LinFusion checkpoint"
            )
        modules = tuple(
            _entry(entry, f"{where}: modules_list[{index}]") for index, entry in enumerate(entries)
        )
        names = [module.module_name for module in modules]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{where}: names the module '{twice}' twice; the config is damaged")
        return cls(modules)

    def to_json(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        return {"_class_name": _CLASS_NAME, "modules_list": [module.to_json() for module in self.modules]}


def tensor_name(index: int, name: str) -> str:
    """Name of a tensor in the weights file: its module's place in the list, then its name in the module."""
    return f"{index}.{name}"


def _entry(entry: Any, where: str) -> ModuleEntry:
    if not isinstance(entry, Mapping):
        raise CheckpointError(f"{where} is a {type(entry).__name__} and not an object")
    module = ModuleEntry(
        module_name=entry.get("module_name", ""),
        dim_n=entry.get("dim_n", 0),
        heads=entry.get("heads", 0),
        projection_mid_dim=entry.get("projection_mid_dim"),
        mixer=entry.get("mixer", GENERALIZED_LINEAR),
        options=entry.get("options", {}),
    )
    mid_dim = module.projection_mid_dim
    problems = {
        "module_name": not _is_dotted_name(module.module_name),
        "dim_n": not _is_count(module.dim_n),
        "heads": not _is_count(module.heads) or module.dim_n % module.heads != 0,
        "projection_mid_dim": not (mid_dim is None or mid_dim == -1 or _is_count(mid_dim)),
        "mixer": not isinstance(module.mixer, str) or not module.mixer,
        "options": not isinstance(module.options, Mapping),
    }
    for name, wrong in problems.items():
        if wrong:
            raise CheckpointError(
                f"{where} has {name} {entry.get(name)!r}, which cannot be; the config is damaged"
            )
    return module


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= 1 << 20


def _is_dotted_name(value: Any) -> bool:
    return isinstance(value, str) and all(part.isidentifier() or part.isdigit() for part in value.split("."))
