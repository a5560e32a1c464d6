"""What a source of training data yields, and how it is told from anything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from linzoo.distillation.errors import DataError

Size = tuple[int, int]
"""Width and height in pixels."""

Progress = Callable[[int, int | None, str], None]
"""Told of progress: how many are done, of how many (None: not known), and the name of the last one."""


class Unusable(Exception):  # noqa: N818 (it is skipped and counted, not reported as an error)
    """An item that cannot be trained on; its text says why."""


@dataclass(frozen=True)
class Item:
    """One thing to train on.

    Attributes:
        name: what messages call it: a file, a row, a prompt.
        caption: what it shows.
        read: the bytes of its image file; None where the teacher draws the image. Raises :class:`Unusable`.
        number: of several items with one caption that the teacher draws, from 0.
    """

    name: str
    caption: str
    read: Callable[[], bytes] | None = None
    number: int = 0


class Source(Protocol):
    """Where items come from."""

    @property
    def stamp(self) -> str:
        """Another stamp means that the items may be others; it costs no reading of images."""
        ...

    @property
    def count(self) -> int | None:
        """How many items there are; None where only reading them all would tell."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of them."""
        ...

    def items(self, rank: int, world: int) -> Iterator[tuple[int, Item]]:
        """The items at positions ``rank``, ``rank + world``, … with their positions."""
        ...


def unusable(name: str, why: str) -> Item:
    """An item that is counted and left out."""

    def read() -> bytes:
        raise Unusable(why)

    return Item(name, "", read)


def read_file(path: Path) -> bytes:
    """The bytes of an item's file; raises :class:`Unusable` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}") from error


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of change of a file; raises an ``OSError`` where it cannot be read."""
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def fingerprint(*parts: object) -> str:
    """128 bits of SHA-256 over JSON values, as 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def missing_extra(package: str, kind: str, error: ImportError) -> DataError:
    """The error for data that needs a package which is not installed."""
    return DataError(
        f"data of kind '{kind}' needs the package {package} ({error}): pip install 'linzoo[train]'"
    )
