"""Folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from linzoo.checkpoints.atomic import new_folder, require_space
from linzoo.errors import CheckpointError


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def fill(folder: Path, text: str = "new") -> None:
    (folder / "a").write_text(text)


def test_appears_at_the_end_and_makes_its_parents(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "out"
    with new_folder(target) as folder:
        fill(folder)
        assert not target.exists()
    assert (target / "a").read_text() == "new"
    assert names(target.parent) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_after_an_error_all_is_as_before(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "deep" / "er" / "out"

    def run() -> None:
        with new_folder(target) as folder:
            fill(folder)
            raise error

    with pytest.raises(type(error)):
        run()
    assert names(tmp_path) == []


def test_an_empty_folder_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with new_folder(target) as folder:
        fill(folder, "first")
    with pytest.raises(CheckpointError, match="not empty"), new_folder(target) as folder:
        fill(folder, "second")
    assert (target / "a").read_text() == "first"
    with new_folder(target, replace=True) as folder:
        fill(folder, "third")
    assert (target / "a").read_text() == "third"
    assert names(tmp_path) == ["out"]


def test_a_failed_replacement_gives_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    with new_folder(target) as folder:
        fill(folder, "first")
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if other == target and self.suffix != ".old":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(CheckpointError, match="Input/output error"),
        new_folder(target, replace=True) as folder,
    ):
        fill(folder, "second")
    assert (target / "a").read_text() == "first"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EROFS, "may write to"),
        (errno.EACCES, "may write to"),
        (errno.EIO, "another place"),
    ],
)
def test_os_errors_say_what_to_do(tmp_path: Path, code: int, advice: str) -> None:
    with pytest.raises(CheckpointError, match=advice), new_folder(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(CheckpointError, match="a part of this path is a file"),
        new_folder(tmp_path / "file" / "out"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=999))
    assert require_space(tmp_path / "not" / "yet", 999) == 999
    with pytest.raises(CheckpointError, match="1,000 bytes are needed and 999 are free"):
        require_space(tmp_path / "not" / "yet", 1000)


KILLED = """
import os, signal, sys
from pathlib import Path
from linzoo.checkpoints.atomic import new_folder
with new_folder(Path(sys.argv[1]), replace=True) as folder:
    (folder / "a").write_text("half")
    if sys.argv[2] == "between":
        rename = Path.rename
        def cut(self, other):
            if other == Path(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, other)
        Path.rename = cut
    else:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["writing", "between"])
def test_a_killed_run_looks_unfinished_and_the_next_one_cleans_up(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "out"
    with new_folder(target) as folder:
        fill(folder, "first")
    done = subprocess.run([sys.executable, "-c", KILLED, str(target), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [name for name in names(tmp_path) if not name.startswith(".")] == (
        ["out"] if moment == "writing" else []
    )

    with pytest.raises(RuntimeError), new_folder(target, replace=True):
        raise RuntimeError
    assert names(tmp_path) == ["out"], "leftovers are gone, and a folder that was moved aside is back"
    assert (target / "a").read_text() == "first"


def test_a_living_run_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with new_folder(target) as mine:
        fill(mine)
        with new_folder(target) as other:
            fill(other, "other")
        assert mine.is_dir()
        shutil.rmtree(target)
    assert (target / "a").read_text() == "new"


def test_names_with_glob_letters(tmp_path: Path) -> None:
    leftover = tmp_path / ".a1.linzoo-00000000"
    leftover.mkdir()
    with new_folder(tmp_path / "a[1]"):
        pass
    assert names(tmp_path) == [".a1.linzoo-00000000", "a[1]"]
