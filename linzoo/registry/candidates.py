"""Finding plugins by metadata alone: nothing is imported here."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import itertools
import re
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from linzoo._version import __version__

PLUGINS_GROUP = "linzoo"
COMMANDS_GROUP = "linzoo.commands"

Origin = Literal["built-in", "entry-point", "file"]


def normalise(name: str) -> str:
    """Spell the name of a distribution as packaging does: ``Linzoo_Kolors`` is ``linzoo-kolors``."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that metadata says is a plugin (or a plugin's command), before anything of it is imported.

    Attributes:
        name: the entry point's name.
        dist: the distribution that it comes from; for a built-in or a file, the module's name.
        version: the distribution's version; empty for a file.
        target: what is loaded: ``"package.module:attribute"``, or the path of a file.
        load: imports it.
        requires: the ``Requires-Dist`` lines of the distribution.
        alone: the distribution has no other plugin, so that its name says which is meant.
    """

    name: str
    dist: str
    version: str
    origin: Origin
    target: str
    load: Callable[[], Any] = field(repr=False, compare=False)
    requires: tuple[str, ...] = ()
    alone: bool = True

    @property
    def key(self) -> str:
        """What the plugin is registered as; never the same for two distributions, or two files."""
        return self.target if self.origin == "file" else f"{self.dist}:{self.name}"


def builtin_candidates(modules: Sequence[str]) -> list[Candidate]:
    """The plugins that come with linzoo, by module name; they need no metadata, so a checkout has them too."""
    return [
        Candidate(
            name=module.removeprefix("linzoo_"),
            dist=module,
            version=__version__,
            origin="built-in",
            target=module,
            load=lambda module=module: importlib.import_module(module),  # type: ignore[misc]
        )
        for module in modules
    ]


def installed_candidates(group: str = PLUGINS_GROUP) -> list[Candidate]:
    """The entry points of installed distributions, sorted by distribution and name.

    Of a distribution that lies on the path twice only the first copy counts, as for imports. The current directory
    is never looked at, unless packages are really installed there.
    """
    path = _search_path()
    found: dict[str, list[Candidate]] = {}
    for name in _names_with(group, path):
        if normalise(name) not in found:
            first = itertools.islice(importlib.metadata.distributions(name=name, path=path), 1)
            found[normalise(name)] = [each for dist in first for each in _candidates_of(dist, name, group)]
    return [each for name in sorted(found) for each in sorted(found[name], key=lambda each: each.name)]


def file_candidates(paths: Sequence[str | Path]) -> list[Candidate]:
    """The one-file plugins that were named on the command line; one that is named twice counts once."""
    return [_file_candidate(path) for path in dict.fromkeys(Path(path).resolve() for path in paths)]


def _search_path() -> list[str]:
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    return [entry for entry in sys.path if entry and (entry in installed or not _is_here(entry))]


def _is_here(entry: str) -> bool:
    try:
        return Path(entry).samefile(Path())
    except OSError:
        return False


def _names_with(group: str, path: list[str]) -> Iterator[str]:
    """Names of distributions whose metadata mention the group; reads one small file of each distribution."""
    heading = re.compile(rf"^\s*\[\s*{re.escape(group)}\s*\]", re.MULTILINE)
    for dist in importlib.metadata.distributions(path=path):
        try:
            names = (
                dist.metadata.get_all("Name")
                if heading.search(dist.read_text("entry_points.txt") or "")
                else []
            )
        except (OSError, UnicodeError, TypeError):
            continue  # what an interrupted uninstall leaves behind is nobody's plugin
        yield from names or []


def _candidates_of(dist: importlib.metadata.Distribution, name: str, group: str) -> Iterator[Candidate]:
    found = functools.partial(Candidate, dist=name, version="", origin="entry-point")
    try:
        found = functools.partial(found, version=dist.version or "", requires=tuple(dist.requires or ()))
        points = {point.name: point for point in dist.entry_points.select(group=group)}
    except Exception as error:
        why = f"its metadata cannot be read: {error}"
        yield found(name=name, target=group, load=lambda: _refuse(why))
        return
    for point in points.values():
        yield found(name=point.name, target=point.value, load=point.load, alone=len(points) == 1)


def _refuse(why: str) -> Any:
    raise ImportError(why)


def _file_candidate(path: Path) -> Candidate:
    stem = re.sub(r"\W", "_", path.stem)
    return Candidate(
        name=stem, dist=stem, version="", origin="file", target=str(path), load=lambda: _load_file(stem, path)
    )


def _load_file(name: str, path: Path) -> Any:
    """Import a file as the module ``name``, so that a ``LazyRef`` can name what it holds."""
    taken = importlib.util.find_spec(name)
    if taken is not None and (
        taken.origin is None or not Path(taken.origin).exists() or not path.samefile(taken.origin)
    ):
        raise ImportError(f"another module is called '{name}' already; give the file another name")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{path}' is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
