"""Saved states: what a killed run left is gone on from bit for bit, and nothing half written is ever taken for whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy import ToyRun

from linzoo.checkpoints.writer import SafetensorsWriter
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.state import States, nbytes
from linzoo.errors import CheckpointError

FILES = {
    "weights": {"0.to_q.weight": torch.arange(6.0).reshape(2, 3)},
    "optimizer": {"a/step": torch.tensor(3.0)},
}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def states(tmp_path: Path, said: list[str]) -> States:
    return States(tmp_path / "state", keep_last=2, min_free=0, say=said.append)


def test_a_state_comes_back_as_it_was(states: States) -> None:
    states.save(7, {"stage": "align"}, FILES)
    saved = states.latest()
    assert saved is not None
    assert (saved.record["step"], saved.record["stage"]) == (7, "align")
    for name, tensors in FILES.items():
        for key, value in tensors.items():
            assert torch.equal(saved.tensors()[name][key], value)


def test_only_the_last_ones_are_kept(states: States) -> None:
    for step in (1, 2, 3):
        states.save(step, {}, FILES)
    assert states.steps() == [2, 3]


def test_a_damaged_state_is_passed_over(states: States, said: list[str], tmp_path: Path) -> None:
    states.save(1, {}, FILES)
    folder = states.save(2, {}, FILES)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    found = states.latest()
    assert found is not None
    assert found.record["step"] == 1
    assert "state of step 2 is passed over" in said[0]
    with pytest.raises(CheckpointError, match="damaged"):
        states.open(2)


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json"])
def test_an_incomplete_state_is_passed_over(states: States, said: list[str], name: str) -> None:
    folder = states.save(2, {}, FILES)
    (folder / name).unlink()
    assert states.latest() is None
    assert len(said) == 1


def test_a_state_of_a_newer_linzoo_is_not_misread(states: States) -> None:
    path = states.save(2, {}, FILES) / "state.json"
    path.write_text(path.read_text().replace('"state_version": 1', '"state_version": 2'))
    with pytest.raises(CheckpointError, match="written by a newer linzoo"):
        states.open(2)


def test_a_save_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = States(tmp_path / "state", keep_last=2, min_free=10**9, say=print)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9 + 1000))
    with pytest.raises(CheckpointError, match="1,000,001,000 are free"):
        states.save(1, {}, FILES)


def test_a_state_that_is_not_there_is_named(states: States) -> None:
    states.save(2, {}, FILES)
    with pytest.raises(DistillationError, match="no state of step 3; there are: 2"):
        states.open(3)


def test_a_full_disk_is_seen_before_the_save(states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    states.save(1, {}, FILES)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match="1,000 are free"):
        states.save(2, {}, FILES)
    assert states.steps() == [1]
    assert nbytes(FILES) > 1000


@pytest.mark.parametrize(
    ("owner", "name"),
    [(os, "fsync"), (Path, "rename"), (Path, "replace"), (SafetensorsWriter, "write")],
    ids=["fsync", "rename", "replace", "tensor"],
)
def test_a_save_that_fails_at_any_write_leaves_the_states_before(
    states: States, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: Any, name: str
) -> None:
    """Each call of each function that touches the disk is refused once."""
    states.save(1, {}, FILES)
    real, refused = getattr(owner, name), 0
    for nth in range(1, 9):
        calls = iter(range(1, 100))

        def refuse(*args: Any, nth: int = nth, calls: Iterator[int] = calls) -> Any:
            if next(calls) == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with suppress(CheckpointError):
                states.save(2, {}, FILES)
                refused -= 1
            refused += 1
        found = states.latest()
        assert found is not None
        assert set(found.tensors()) == set(FILES)
        states.drop_after(1)
        assert [each.name for each in (tmp_path / "state").iterdir()] == ["step-00000001"]
    assert refused >= 1


def test_later_states_and_leftovers_go_when_a_run_goes_back(states: States, tmp_path: Path) -> None:
    states.save(1, {}, FILES)
    states.save(2, {}, FILES)
    (tmp_path / "state" / ".step-00000002.linzoo-abc").mkdir()
    states.drop_after(1)
    assert sorted(each.name for each in (tmp_path / "state").iterdir()) == ["step-00000001"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return ToyRun(tmp_path_factory.mktemp("straight")).run()


class TestResume:
    """8 steps of align and 12 of distill with an average, cut anywhere, come out as in one go."""

    @pytest.mark.parametrize("kill_at", [4, 8, 9, 16])
    def test_after_a_kill(self, straight: dict[str, torch.Tensor], tmp_path: Path, kill_at: int) -> None:
        class Killed(BaseException):
            pass

        def die(step: object) -> None:
            if step.step == kill_at:  # type: ignore[attr-defined]
                raise Killed

        with pytest.raises(Killed):
            ToyRun(tmp_path, callbacks=(die,)).run()
        run = ToyRun(tmp_path)
        assert (run.saved.record["step"] if run.saved else 0) < kill_at
        resumed = run.run()
        assert set(resumed) == set(straight)
        assert all(torch.equal(resumed[name], value) for name, value in straight.items())
        assert run.loop.standing.step == 20

    @pytest.mark.parametrize(
        "write", [pytest.param(3, marks=pytest.mark.slow), 11, pytest.param(18, marks=pytest.mark.slow)]
    )
    def test_after_a_kill_amid_a_save(
        self, straight: dict[str, torch.Tensor], tmp_path: Path, write: int
    ) -> None:
        """The process really dies, by SIGKILL, at its so-manieth write to the disk."""
        script = (
            "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
            "from toy import ToyRun; real = os.fsync; left = [int(sys.argv[3])]\n"
            "def fsync(descriptor):\n"
            "    left[0] -= 1\n"
            "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return real(descriptor)\n"
            "os.fsync = fsync\n"
            "ToyRun(Path(sys.argv[2])).run()\n"
        )
        arguments = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path), str(write)]
        died = subprocess.run(arguments, capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
        run = ToyRun(tmp_path)
        resumed = run.run()
        assert all(torch.equal(resumed[name], value) for name, value in straight.items())
