"""Figures: a line a step whatever happens, trackers through accelerate, progress for people."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from toy import ToyRun, toy_recipe

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.log import MetricsLog, Trackers, wanted_trackers
from linzoo.distillation.loop import scalars
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Bars, Heartbeats, Progress, counting, open_progress
from linzoo.distillation.recipe import Logging


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_cut_where_the_state_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.write({"step": 1, "loss": float("nan"), "kd": {1.0: [float("inf"), 2.0]}})
    kept = log.position()
    log.write({"step": 2})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"step": 3, "lo')  # a kill amid a line
    log = MetricsLog(path, kept)
    log.write({"step": 2})
    log.close()
    assert lines(path) == [{"step": 1, "loss": None, "kd": {"1.0": [None, 2.0]}}, {"step": 2}]


def test_a_new_run_begins_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    MetricsLog(path).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("kill_at", [2, 7, 13])
def test_every_step_is_there_once_after_a_kill(tmp_path: Path, kill_at: int) -> None:
    class Killed(BaseException):
        pass

    def die(step: object) -> None:
        if step.step == kill_at:  # type: ignore[attr-defined]
            raise Killed

    path = tmp_path / "metrics.jsonl"
    with closing(MetricsLog(path)) as metrics, pytest.raises(Killed):
        ToyRun(tmp_path, callbacks=(die,), metrics=metrics).run()
    run = ToyRun(tmp_path)
    with closing(MetricsLog(path, run.saved.record["metrics_bytes"] if run.saved else 0)) as metrics:
        run.loop.metrics = metrics
        run.run()
    records = lines(path)
    assert [record["step"] for record in records if record["kind"] == "step"] == list(range(1, 21))
    assert [record["step"] for record in records if record["kind"] == "validation"] == [5, 8, 13, 18, 20]
    assert {"loss", "kd", "grad_norm", "lr_new", "samples_per_second", "memory_bytes"} <= set(records[0])


def test_tensorboard_files_are_written(tmp_path: Path) -> None:
    recipe = toy_recipe(distill=None, logging=Logging(every=2, tensorboard=True))
    run = ToyRun(tmp_path, recipe)
    run.loop.trackers = Trackers(recipe.logging, tmp_path, "run")
    run.run("align")
    run.loop.trackers.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("align/loss")] == [2, 4, 6, 8]
    assert [event.step for event in events.Scalars("validation/kd")] == [5, 8]


def test_a_tracker_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no API key")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.start", fail)
    with pytest.raises(DistillationError, match=r"logging\.tensorboard cannot be opened: no API key"):
        Trackers(Logging(tensorboard=True), tmp_path, "run")


def test_nested_figures_have_paths() -> None:
    figures = {"kd": 0.5, "deciles": [None, 0.25], "guided": {"7.5": 2.0}, "name": "x", "count": 3}
    assert scalars(figures) == {"kd": 0.5, "deciles/1": 0.25, "guided/7.5": 2.0}


def test_a_missing_tracker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_trackers(Logging()) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DistillationError, match=r"linzoo\[wandb\]"):
        wanted_trackers(Logging(wandb="mine"))
    with pytest.raises(DistillationError, match=r"linzoo\[train\]"):
        wanted_trackers(Logging(tensorboard=True))


def test_heartbeats_come_about_every_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with Heartbeats(lambda: now[0]).task("align", 10, done=2) as advance:
        for _ in range(8):
            now[0] += 25
            advance(1, {"loss": 0.123456})
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "align: 2/10",
        "align: 5/10, 0:02:05 left  loss 0.1235",
        "align: 8/10, 0:00:50 left  loss 0.1235",
        "align: 10/10 in 0:03:20  loss 0.1235",
    ]


def test_work_of_unknown_length_has_no_end_to_tell(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with counting(Heartbeats(lambda: now[0]), "data") as told:
        for done in (1, 2, 3):
            now[0] += 60
            told(done, None, "a caption of more than forty letters, cut off")
    shown = "last a caption of more than forty letters, cu"
    assert capsys.readouterr().err.splitlines() == [
        "data: 0",
        f"data: 2  {shown}",
        f"data: 3  {shown}",
        f"data: 3 in 0:02:00  {shown}",
    ]
    with counting(Bars(), "data") as told:
        told(1, None, "one")
    assert "1/?" in capsys.readouterr().err


def test_bars_are_for_terminals_and_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert type(open_progress(quiet=True)) is Progress
    assert isinstance(open_progress(quiet=False), Heartbeats)
    progress = open_progress(quiet=True)
    progress.say("nothing")
    with progress.task("align", 2) as advance:
        advance(1, {})
    assert capsys.readouterr().err == ""


def test_bars_show_figures(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    with bars.task("align", 2) as advance:
        advance(2, {"loss": 0.5})
    bars.say("[done]")
    told = capsys.readouterr().err
    assert "2/2" in told
    assert "[done]" in told


def test_counting_begins_a_task_for_each_total() -> None:
    tasks: list[list[object]] = []

    class Noting(Heartbeats):
        def say(self, text: str) -> None:
            tasks.append([text])

    with counting(Noting(lambda: 0.0), "data") as told:
        told(1, 2, "a")
        told(2, 2, "b")
        told(5, 5, "c")
    assert [task[0] for task in tasks if "in" not in str(task[0])] == ["data: 0/2", "data: 0/5"]


def test_one_process_is_the_main_one() -> None:
    processes = Processes("cpu")
    assert (processes.main, processes.rank, processes.count) == (True, 0, 1)
    assert processes.gather(3) == [3]
    assert processes.any(False) is False
    assert processes.sum_scalars({}) == {}
