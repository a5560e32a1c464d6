"""Which records make up one data set: written once they are all there, so that a later run need not read the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linzoo.checkpoints.atomic import write_bytes
from linzoo.distillation.errors import DataError

_VERSION = 2


@dataclass(frozen=True)
class Row:
    """One item of a data set.

    Attributes:
        item: hash of what is trained on or held out as one: a picture, or all that is drawn of a prompt.
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
    _write(path, {"rows": [_values(row) for row in manifest.rows], "notes": manifest.notes})


@dataclass(frozen=True)
class Part:
    """One process's part of a manifest: rows by position in the source."""

    rows: Mapping[int, Row]
    notes: tuple[str, ...] = ()


def write_part(path: Path, rank: int, world: int, part: Part) -> None:
    """Leave a process's part of a manifest for the first process.

    It stays there: another run with the same data may be waiting for its own, which is the same.
    """
    numbered = [[position, *_values(row)] for position, row in part.rows.items()]
    _write(_part(path, rank, world), {"rows": numbered, "notes": part.notes})


def join_parts(path: Path, own: Part, world: int, notes: tuple[str, ...]) -> None:
    """Write a manifest of the first process's own part and those that the others have left.

    An item that comes twice with one caption counts once.

    Raises:
        DataError: a part is not there.
    """
    parts = [own, *(_read_part(_part(path, rank, world)) for rank in range(1, world))]
    rows = {position: row for part in parts for position, row in part.rows.items()}
    distinct = dict.fromkeys(rows[position] for position in sorted(rows))
    told = [note for part in parts for note in part.notes]
    write_manifest(path, Manifest(tuple(distinct), (*notes, *told)))


def _read_part(file: Path) -> Part:
    document = _read(file)
    if document is None:
        raise DataError(f"{file}: cannot be read; do all processes share the cache's folder? Run again")
    rows = {position: _row(values) for position, *values in document["rows"]}
    return Part(rows, tuple(document["notes"]))


def _part(path: Path, rank: int, world: int) -> Path:
    return path.with_name(f"{path.stem}.{rank}-of-{world}.part")


def _values(row: Row) -> tuple[Any, ...]:
    return row.item, row.caption, row.views


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
