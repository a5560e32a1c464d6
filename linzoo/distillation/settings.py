"""Settings before they are checked: plain data, and where each of them was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Where something was written.

    Attributes:
        where: a file, or the option that it was given with.
        line: from 1; 0 where there are no lines.
        column: from 1.
    """

    where: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.where}:{self.line}:{self.column}" if self.line else self.where


@dataclass(frozen=True)
class Settings:
    """A tree of settings.

    Attributes:
        data: the tree.
        marks: where its parts were written, by path; a part without one is where the part around it is.
    """

    data: dict[str, Any]
    marks: Mapping[Path, Mark] = field(default_factory=dict)

    def mark(self, path: Path) -> Mark:
        """Where a part, or the nearest one around it, was written."""
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((self.marks[each] for each in around if each in self.marks), Mark("?"))

    def below(self, path: Path) -> Settings:
        """The tree below a section."""
        data = self.data
        for part in path:
            data = data[part]  # type: ignore[index]  # sections have names alone
        cut = len(path)
        return Settings(data, {each[cut:]: mark for each, mark in self.marks.items() if each[:cut] == path})

    def without(self, name: str) -> Settings:
        """The tree without one of its outermost parts."""
        return Settings({key: value for key, value in self.data.items() if key != name}, self.marks)

    def merged(self, over: Settings) -> Settings:
        """The tree with another one laid over it: sections are merged, everything else is replaced."""
        marks = dict(self.marks)
        return Settings(_merged(self.data, over.data, (), marks, over.marks), marks)


def _merged(
    base: Mapping[str, Any],
    over: Mapping[str, Any],
    path: Path,
    marks: dict[Path, Mark],
    over_marks: Mapping[Path, Mark],
) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value, here, marks, over_marks)
            continue
        result[key] = value
        for stale in [each for each in marks if each[: len(here)] == here]:
            del marks[stale]
        marks.update({each: mark for each, mark in over_marks.items() if each[: len(here)] == here})
    return result
