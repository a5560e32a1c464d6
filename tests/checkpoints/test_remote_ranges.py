"""Byte ranges: which are joined, and what is kept of them on disk."""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.checkpoints.atomic import held
from linzoo.checkpoints.ranges import ByteRange, KeptRanges, join
from linzoo.errors import CheckpointError

SIZE = 200
CONTENT = bytes(range(SIZE))


@st.composite
def tensors(draw: st.DrawFn) -> list[ByteRange]:
    """Some of the tensors of a file, as they lie in it, in any order."""
    bounds = sorted(draw(st.sets(st.integers(0, SIZE), min_size=2, max_size=12)))
    all_of_them = [ByteRange(start, end) for start, end in itertools.pairwise(bounds)]
    return draw(st.lists(st.sampled_from(all_of_them), unique=True))


def read(kept: KeptRanges, wanted: ByteRange) -> bytes | None:
    buffer = bytearray(len(wanted))
    return bytes(buffer) if kept.read_into(wanted, memoryview(buffer)) else None


@given(tensors(), st.integers(1, SIZE))
def test_joined_ranges_bring_every_byte_that_is_wanted_once_and_no_other(
    wanted: list[ByteRange], most: int
) -> None:
    joined = join(wanted, most)
    assert sorted(place for each in joined for place in range(each.start, each.end)) == sorted(
        place for each in wanted for place in range(each.start, each.end)
    )
    for each in wanted:
        assert sum(each in one for one in joined) == 1
    for each in joined:
        assert len(each) <= most or each in wanted
    first = {each.start: each for each in wanted}
    for before, after in itertools.pairwise(joined):
        assert before.end < after.start or len(before) + len(first[after.start]) > most


def test_neighbours_come_in_one_request() -> None:
    block = [ByteRange(20, 30), ByteRange(0, 10), ByteRange(10, 20), ByteRange(40, 50)]
    assert join(block, 100) == [ByteRange(0, 30), ByteRange(40, 50)]
    assert join(block, 20) == [ByteRange(0, 20), ByteRange(20, 30), ByteRange(40, 50)]
    assert join(block, 1) == sorted(block)
    assert join([], 1) == []


@settings(deadline=None, max_examples=40)
@given(kept_ones=tensors(), wanted=tensors())
def test_what_is_kept_is_read_back_and_not_missed(
    kept_ones: list[ByteRange], wanted: list[ByteRange]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = KeptRanges(Path(folder) / "file")
        for each in join(kept_ones, 60):
            kept.keep(each, (CONTENT[place : place + 1] for place in range(each.start, each.end)))
        missing = kept.missing(wanted)
        for each in wanted:
            inside = any(each in one for one in kept_ones)
            assert (each in missing) <= (not inside)
            assert read(kept, each) == (None if each in missing else CONTENT[each.start : each.end])
        kept.clear()
        assert not kept.folder.exists()
        assert kept.missing(wanted) == wanted


def test_nothing_is_kept_of_a_range_that_is_not_whole(tmp_path: Path) -> None:
    def cut() -> Iterator[bytes]:
        yield b"abc"
        raise CheckpointError("cut")

    kept = KeptRanges(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cut"):
        kept.keep(ByteRange(0, 4), cut())
    kept.keep(ByteRange(0, 4), [b"abc"])  # it was told to stop
    assert list(kept.folder.iterdir()) == []
    assert read(kept, ByteRange(0, 3)) is None


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    kept = KeptRanges(tmp_path / "file")
    with pytest.raises(CheckpointError, match="No space left on device; make room"):
        kept.keep(ByteRange(0, 3), [b"abc"])
    assert list(kept.folder.iterdir()) == []


def test_clearing_takes_what_killed_runs_left_and_leaves_what_a_living_one_writes(tmp_path: Path) -> None:
    kept = KeptRanges(tmp_path)
    kept.keep(ByteRange(0, 3), [b"abc"])
    (tmp_path / ".5-9-dead.part").write_bytes(b"x")
    alive = tmp_path / ".5-9-alive.part"
    alive.write_bytes(b"x")
    with held(alive):
        kept.clear()
        assert list(tmp_path.iterdir()) == [alive]
    kept.clear()
    assert not tmp_path.exists()
    kept.clear()


def test_a_range_that_is_being_written_is_not_cleared(tmp_path: Path) -> None:
    kept = KeptRanges(tmp_path / "file")

    def pieces() -> Iterator[bytes]:
        yield b"ab"
        KeptRanges(kept.folder).clear()
        yield b"c"

    kept.keep(ByteRange(0, 3), pieces())
    assert read(kept, ByteRange(0, 3)) == b"abc"


def test_clearing_leaves_what_is_not_its_own_and_what_cannot_be_removed(tmp_path: Path) -> None:
    kept = KeptRanges(tmp_path)
    kept.keep(ByteRange(0, 3), [b"abc"])
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "3-4").mkdir()  # a file that somebody has open cannot be removed everywhere
    kept.clear()
    assert sorted(each.name for each in tmp_path.iterdir()) == [".DS_Store", "3-4"]
    KeptRanges(tmp_path / ".DS_Store").clear()


def test_a_range_that_another_run_cleared_meanwhile_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptRanges(tmp_path)
    kept.keep(ByteRange(0, 3), [b"abc"])
    listed = [tmp_path / "0-3"]
    monkeypatch.setattr(KeptRanges, "_files", lambda self: listed)
    listed[0].unlink()
    assert read(kept, ByteRange(0, 3)) is None
    kept.clear()
