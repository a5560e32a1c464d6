"""Hashes of files, in a thread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from linzoo.checkpoints.digest import BackgroundDigests, Digest, digest
from linzoo.errors import CheckpointError


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_is_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    expected = Digest(size, hashlib.sha256(content).hexdigest())
    assert digest(tmp_path / "a") == expected
    with BackgroundDigests({"x": tmp_path / "a"}) as digests:
        assert digests.result() == {"x": expected}


def test_a_file_that_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    fstat = os.fstat

    def meanwhile(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        path.write_bytes(b"after, and longer")
        return found

    monkeypatch.setattr(os, "fstat", meanwhile)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        digest(path)


def test_errors_reach_the_caller(tmp_path: Path) -> None:
    with (
        BackgroundDigests({"x": tmp_path / "missing"}) as digests,
        pytest.raises(CheckpointError, match="cannot be read: No such file"),
    ):
        digests.result()
