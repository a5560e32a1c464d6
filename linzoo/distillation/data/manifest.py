"""Which records make up one data set: written once they are all there, so that a later run need not read the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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


def write_part(path: Path, rank: int, world: int, rows: Mapping[int, Row], notes: tuple[str, ...]) -> None:
    """Write one process's part of a manifest; the rows are by position in the source."""
    numbered = [[position, *asdict(row).values()] for position, row in rows.items()]
    _write(_part(path, rank, world), {"rows": numbered, "notes": notes})


def join_parts(path: Path, world: int, notes: tuple[str, ...]) -> None:
    """Make one manifest of all processes' parts; an item that comes twice with one caption counts once."""
    parts = [_part(path, rank, world) for rank in range(world)]
    documents = [document for document in map(_read, parts) if document is not None]
    numbered = sorted((each for document in documents for each in document["rows"]), key=lambda row: row[0])
    rows = {(row.item, row.caption): row for row in (_row(each[1:]) for each in numbered)}
    told = [note for document in documents for note in document["notes"]]
    write_manifest(path, Manifest(tuple(rows.values()), (*notes, *told)))
    for part in parts:
        part.unlink(missing_ok=True)


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
