"""The cache: what is in it is whole, whatever happened while it was written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linzoo.distillation.data import cache as module
from linzoo.distillation.data.cache import Cache, Record, Writer, halved
from linzoo.distillation.data.manifest import (
    Manifest,
    Part,
    Row,
    join_parts,
    read_manifest,
    write_manifest,
    write_part,
)
from linzoo.distillation.errors import DataError
from linzoo.errors import CheckpointError


def record(number: int, size: int = 3) -> Record:
    return Record(f"key{number}", {"a": torch.full((size,), float(number))}, {"number": number})


def quietly(done: int, total: int | None, name: str) -> None:
    assert total is not None
    assert 1 <= done <= total


def fill(folder: Path, *numbers: int) -> Cache:
    store = Cache(folder, {"what": "numbers"})
    with store.writer() as writer:
        for number in numbers:
            writer.add(record(number))
    return opened(folder)


def opened(folder: Path) -> Cache:
    store = Cache(folder, {})
    store.open()
    return store


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_what_was_added_is_there(tmp_path: Path) -> None:
    store = fill(tmp_path, 1, 2)
    assert len(store) == 2
    assert "key1" in store
    assert "key3" not in store
    assert store.info("key2") == {"number": 2}
    assert torch.equal(store.tensors("key2")["a"], torch.tensor([2.0, 2, 2]))
    assert json.loads((tmp_path / "about.json").read_text()) == {"what": "numbers"}


def test_of_two_records_with_one_key_the_older_stays(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with Cache(tmp_path, {}).writer() as writer:
        writer.add(Record("key1", {"a": torch.zeros(3)}, {"number": 0}))
    assert opened(tmp_path).info("key1") == {"number": 1}


def test_a_view_does_not_bring_its_storage_along(tmp_path: Path) -> None:
    whole = torch.zeros(1000, 1000)
    with Cache(tmp_path, {}).writer() as writer:
        writer.add(Record("row", {"a": whole[0], "b": whole.T[:2]}, {}))
    assert shards(tmp_path)[0].stat().st_size < 3 * 4000 + 1000


@pytest.mark.parametrize(
    ("limit", "value"), [("SHARD_BYTES", 24), ("SHARD_RECORDS", 2), ("SHARD_SECONDS", 0)]
)
def test_a_shard_ends_by_bytes_records_or_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    fill(tmp_path, 1, 2, 3, 4)
    assert len(shards(tmp_path)) == (4 if limit == "SHARD_SECONDS" else 2)


def test_an_error_loses_nothing_that_was_added(tmp_path: Path) -> None:
    def fail() -> None:
        with Cache(tmp_path, {}).writer() as writer:
            writer.add(record(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert "key1" in opened(tmp_path)


def add_all(writer: Writer, count: int) -> None:
    for number in range(count):
        writer.add(record(number))


class Killed(BaseException):
    """As if the process had ended here: nothing after it runs that would not run after a kill."""


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("at", range(4))
def test_a_kill_at_any_write_leaves_whole_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, at: int
) -> None:
    folder = tmp_path / "cache"
    store = Cache(folder, {})
    monkeypatch.setattr(module, "SHARD_RECORDS", 1)
    calls = 0
    owner, name = (os, "fsync") if call == "os.fsync" else (Path, "replace")
    real = getattr(owner, name)

    def cut(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            shutil.copytree(folder, tmp_path / "killed", dirs_exist_ok=True)
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(owner, name, cut)
    writer = store.writer()
    with pytest.raises(Killed):
        add_all(writer, 4)
    monkeypatch.undo()
    left = Cache(tmp_path / "killed", {})
    assert left.verify(quietly) == []
    left.open()
    done = at // 2 if call == "os.fsync" else at
    assert len(left) >= done
    for number in range(len(left)):
        assert left.info(f"key{number}") == {"number": number}
    rest = [number for number in range(4) if f"key{number}" not in left]
    assert len(fill(tmp_path / "killed", *rest)) == 4


@given(st.data())
def test_a_damaged_shard_is_removed_and_named(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    fill(folder, 1)
    fill(folder, 2)
    path = shards(folder)[0]
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    store = Cache(folder, {})
    notes = store.verify(quietly)
    assert notes == [f"{path}: was damaged; what it held is made again"]
    store.open()
    assert "key1" not in store
    assert "key2" in store


def test_each_process_verifies_its_share_and_all_are_verified(tmp_path: Path) -> None:
    for number in range(8):
        fill(tmp_path, number)
    for path in shards(tmp_path):
        path.write_bytes(b"")
    notes = [Cache(tmp_path, {}).verify(quietly, rank, 3) for rank in range(3)]
    assert sum(map(len, notes)) == 8
    assert shards(tmp_path) == []


def test_a_shard_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    path = shards(tmp_path)[0]
    path.write_bytes(b"no")
    with pytest.raises(DataError, match=f"{path}: cannot be read .*; delete this file and run again"):
        opened(tmp_path)


def test_a_full_disk_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 1)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device; make room or choose another disk"):
        fill(tmp_path, 2)
    monkeypatch.undo()
    assert len(opened(tmp_path)) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_killed_writers_go_when_they_are_old(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    old, new = tmp_path / ".1.safetensors.aa", tmp_path / ".2.safetensors.bb"
    old.write_bytes(b"")
    new.write_bytes(b"")
    os.utime(old, (0, 0))
    opened(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_float16_holds_what_fits() -> None:
    assert halved(torch.tensor([1.0, 60000.0])).dtype == torch.float16
    assert halved(torch.tensor([1.0, 70000.0])).dtype == torch.float32


ROWS = (Row("i", "a cat \u2028", ((0, "k"), (1, "l"))), Row("j", "a dog", ((0, "m"),)))


def test_a_manifest_comes_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "set.json", Manifest(ROWS, ("note",)))
    assert read_manifest(tmp_path / "set.json") == Manifest(ROWS, ("note",))


@pytest.mark.parametrize("content", [b"", b"{}", b"{}\n{}\n", b"\xff", b'{"version": 1}\n{}', b"[]\n[]"])
def test_a_damaged_manifest_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.json").write_bytes(content)
    assert read_manifest(tmp_path / "set.json") is None


def test_a_flipped_byte_in_a_manifest_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    write_manifest(path, Manifest(ROWS))
    path.write_bytes(path.read_bytes().replace(b"cat", b"cut"))
    assert read_manifest(path) is None


def test_parts_join_in_the_order_of_the_source_without_doubles(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    write_part(path, 1, 2, Part({1: ROWS[1]}, ("left out",)))
    join_parts(path, Part({0: ROWS[0], 2: ROWS[0]}), 2, ("said",))
    assert read_manifest(path) == Manifest(ROWS, ("said", "left out"))


def test_two_runs_may_join_the_same_parts(tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    write_part(path, 1, 2, Part({1: ROWS[1]}))
    for _ in range(2):
        join_parts(path, Part({0: ROWS[0]}), 2, ())
        assert read_manifest(path) == Manifest(ROWS)


def test_a_part_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set\.1-of-2\.part: cannot be read; do all processes share"):
        join_parts(tmp_path / "set.json", Part({0: ROWS[0]}), 2, ())
    assert list(tmp_path.iterdir()) == []
