"""Entries of indexes for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.index import Index, encode_index

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HASH = "00112233aabbccdd"


def make_entry(repo: str = "user/a", **changes: Any) -> ZooEntry:
    """An entry of which all is known, but for what is changed."""
    known: dict[str, Any] = {
        "commit": COMMIT,
        "variant": "tiny",
        "base": "artist/base",
        "base_commit": COMMIT[::-1],
        "base_hash": HASH,
        "mixers": ("generalized-linear",),
        "plan": "tiny-full",
        "recipe": "sd15",
        "license": "openrail++",
        "bytes": 12_345_678,
        "measures": {"kd": 0.02},
    }
    return ZooEntry(repo=repo, **{**known, **changes})


def write_index(path: Path, *entries: ZooEntry) -> Path:
    """An index in a file."""
    path.write_bytes(encode_index(Index(str(path), entries)))
    return path
