"""Which records make up one data set: written once they are all there, so that a later run need not read the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linzoo.distillation.errors import DataError
from linzoo.generate.output import write_bytes

_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One item of a data set.

    Attributes:
        item: hash of its content without the caption.
        caption: its caption.
        views: for each of its latents, the index of the size it was made for and the key in the cache.
    """

    item: str
    caption: str
    views: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Manifest:
    """The items of a data set in the order of their source, and what the user should know of them."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None where there is none or it is damaged (the source then tells again)."""
    document = _read(path)
    if document is None:
        return None
    rows = tuple(_row(each) for each in document["rows"])
    return Manifest(rows, tuple(document["notes"]))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    rows = [list(asdict(row).values()) for row in manifest.rows]
    _write(path, {"rows": rows, "notes": manifest.notes})


@dataclass(frozen=True)
class Part:
    """One process's part of a manifest: rows by position in the source."""

    rows: Mapping[int, Row]
    notes: tuple[str, ...] = ()


def write_part(path: Path, rank: int, world: int, part: Part) -> None:
    """Leave a process's part of a manifest for the first process."""
    numbered = [[position, *asdict(row).values()] for position, row in part.rows.items()]
    _write(_part(path, rank, world), {"rows": numbered, "notes": part.notes})


def join_parts(path: Path, own: Part, world: int, notes: tuple[str, ...]) -> None:
    """Write a manifest of the first process's own part and those that the others have left.

    An item that comes twice with one caption counts once.

    Raises:
        DataError: a part is not there.
    """
    files = [_part(path, rank, world) for rank in range(1, world)]
    parts = [own, *map(_read_part, files)]
    rows = {position: row for part in parts for position, row in part.rows.items()}
    distinct = {(rows[position].item, rows[position].caption): rows[position] for position in sorted(rows)}
    told = [note for part in parts for note in part.notes]
    write_manifest(path, Manifest(tuple(distinct.values()), (*notes, *told)))
    for file in files:
        file.unlink(missing_ok=True)


def _read_part(file: Path) -> Part:
    document = _read(file)
    if document is None:
        raise DataError(f"{file}: cannot be read; do all processes share the cache's folder? Run again")
    rows = {position: _row(values) for position, *values in document["rows"]}
    return Part(rows, tuple(document["notes"]))


def _part(path: Path, rank: int, world: int) -> Path:
    return path.with_name(f"{path.stem}.{rank}-of-{world}.part")


def _row(values: list[Any]) -> Row:
    item, caption, views = values
    return Row(item, caption, tuple((base, key) for base, key in views))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    body = json.dumps(content)
    head = {"version": _VERSION, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    write_bytes(path, f"{json.dumps(head)}\n{body}\n".encode())


def _read(path: Path) -> dict[str, Any] | None:
    try:
        head, body = path.read_text(encoding="utf-8").splitlines()
        told = json.loads(head)
        sound = told["version"] == _VERSION and told["sha256"] == hashlib.sha256(body.encode()).hexdigest()
        document: dict[str, Any] | None = json.loads(body) if sound else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return document
