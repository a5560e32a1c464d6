"""The loop around the steps: whatever fails, nothing that was learnt is lost, and nothing untrue is noted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy import ToyRun, ToyStudent, ToyValidator, toy_recipe

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.recipe import Saving
from linzoo.distillation.state import nbytes
from linzoo.distillation.trainer import StepReport, Trainer
from linzoo.distillation.validation import Validation
from linzoo.errors import LinzooError


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return ToyRun(tmp_path_factory.mktemp("straight")).run()


def goes_on(folder: Path, straight: Mapping[str, torch.Tensor], after: int) -> None:
    run = ToyRun(folder)
    assert run.saved is not None
    assert run.saved.record["step"] == after
    ended = run.run()
    assert all(torch.equal(ended[name], value) for name, value in straight.items())


class Failing(ToyValidator):
    """Measures or keeps until a step."""

    def __init__(self, student: ToyStudent, fails: str) -> None:
        super().__init__(student)
        self.fails = fails

    def measure(self, step: int) -> Mapping[str, float]:
        if self.fails == "measure" and step > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().measure(step)

    def keep(self, step: int, measures: Mapping[str, float]) -> None:
        if self.fails == "keep" and step > 5:
            raise LinzooError("no room")
        super().keep(step, measures)


@pytest.mark.parametrize(("fails", "error"), [("measure", RuntimeError), ("keep", LinzooError)])
def test_a_validation_that_fails_loses_no_step(
    straight: Mapping[str, torch.Tensor], tmp_path: Path, fails: str, error: type[Exception]
) -> None:
    run = ToyRun(tmp_path)
    run.loop.validator = Failing(run.student, fails)
    weights = {name: value.detach() for name, value in run.student.parameters.items()}
    with pytest.raises(error):
        run.run()
    assert run.loop.standing.best["step"] == 5
    again = ToyRun(tmp_path)
    assert again.saved is not None
    assert again.saved.record["measures"] is None  # those of step 5 are not of these weights
    saved = again.saved.tensors()["weights"]
    assert all(torch.equal(weights[name], value) for name, value in saved.items())
    goes_on(tmp_path, straight, 8)


@pytest.mark.parametrize(("message", "saved"), [("CUDA out of memory", 13), ("device-side assert", 11)])
def test_memory_that_runs_out_in_a_step_loses_none_before(
    straight: Mapping[str, torch.Tensor], tmp_path: Path, message: str, saved: int
) -> None:
    """After another error the device may be in no state to be read: then the last state that was due is gone on from."""
    run = ToyRun(tmp_path)
    backward = run.objectives["distill"].backward

    def fail(batch: Any, draws: Any, share: float) -> Mapping[str, torch.Tensor]:
        losses = backward(batch, draws, share)
        if draws.step == 5:
            raise RuntimeError(message)
        return losses

    run.objectives["distill"].backward = fail
    with pytest.raises(RuntimeError, match=message):
        run.run()
    goes_on(tmp_path, straight, saved)


def test_what_fails_amid_an_update_is_not_saved(
    straight: Mapping[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, message = Trainer.step, "CUDA out of memory"

    def fail(trainer: Trainer) -> Any:
        if trainer.done == 4:
            trainer._optimization.optimizer.step = lambda: (_ for _ in ()).throw(RuntimeError(message))
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", fail)
        with pytest.raises(RuntimeError, match=message):
            ToyRun(tmp_path).run()
    goes_on(tmp_path, straight, 3)


def test_a_disk_that_fills_up_stops_the_run_with_everything_saved(
    straight: Mapping[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of step 3 finds room, and another one would not."""
    run = ToyRun(tmp_path)
    state = nbytes(run.trainer("align").state()[1]) + 10_000
    free = [SimpleNamespace(free=3 * state), SimpleNamespace(free=1000)]
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: free.pop(0))
        with pytest.raises(
            DistillationError, match=r"(?s)after step 3, which is saved.* 1,000 are free.*--resume"
        ):
            run.run()
    assert free == []
    goes_on(tmp_path, straight, 3)


def test_the_end_of_a_stage_asks_for_no_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ToyRun(tmp_path, toy_recipe(distill=None, saving=Saving(every=8)))
    free = [SimpleNamespace(free=10**9)]
    monkeypatch.setattr("shutil.disk_usage", lambda path: free.pop(0))
    run.run("align")
    assert run.states.steps() == [8]


def report_of(seconds: float, **changes: Any) -> StepReport:
    values: dict[str, Any] = {
        "number": 1,
        "losses": {"loss": 0.5},
        "norms": {"total": 1.0},
        "rates": {"new": 0.1},
    }
    values |= {"skipped": False, "finishing": False, "samples": 8, "seconds": seconds, "data_seconds": 0.0}
    return StepReport(**(values | changes))


def test_the_average_is_what_is_measured(tmp_path: Path) -> None:
    run = ToyRun(tmp_path)
    measured: list[torch.Tensor] = []
    weight = run.student.parameters["0.weight"]

    class Noting(ToyValidator):
        def measure(self, step: int) -> Mapping[str, float]:
            measured.append(weight.detach().clone())
            return super().measure(step)

    run.loop.validator = Noting(run.student)
    ended = run.run()
    assert torch.equal(measured[-1], ended["ema 0.weight"])
    assert torch.equal(weight, ended["0.weight"])
    assert not torch.equal(measured[-1], weight)


@pytest.mark.parametrize("keep_best", [True, False])
def test_the_best_are_kept_where_that_is_wanted(tmp_path: Path, keep_best: bool) -> None:
    run = ToyRun(tmp_path, toy_recipe(distill=None, saving=Saving(keep_best=keep_best)))
    run.run("align")
    assert run.loop.standing.measures is not None
    assert run.loop.validator.kept == ([5, 8] if keep_best else [])
    assert run.loop.standing.best == (
        {"step": 8, "kd": run.loop.standing.measures["kd"]} if keep_best else None
    )


def test_skipped_steps_and_slow_ones_are_told(tmp_path: Path) -> None:
    """The larger sizes at the end may be slow; what is as large as before may not."""
    run = ToyRun(tmp_path)
    said: list[str] = []
    run.loop.progress.say = said.append  # type: ignore[method-assign]
    run.loop.standing.stage = "distill"
    for seconds, finishing in ((1.0, False), (5.0, True)):
        for _ in range(25):
            run.loop._note(report_of(seconds, finishing=finishing), skips=0)
    assert said == []
    run.loop._note(report_of(5.0, number=7, skipped=True), skips=2)
    assert said == ["warning: distill step 7 is skipped, its numbers are not finite (2 of at most 20)"]
    for _ in range(25):
        run.loop._note(report_of(5.0), skips=0)
    assert "takes 5 s now and took 1 s at first" in said[1]


def test_pictures_that_fail_do_not_end_a_run() -> None:
    def fail(step: int) -> None:
        raise LinzooError("not enough memory for a picture")

    said: list[str] = []
    validation = Validation(
        SimpleNamespace(evaluate=lambda: {"kd": 0.5}),  # type: ignore[arg-type]
        SimpleNamespace(draw=fail),  # type: ignore[arg-type]
        lambda step, measures: None,
        said.append,
    )
    assert validation.measure(7) == {"kd": 0.5}
    assert said == ["warning: no pictures of step 7: not enough memory for a picture"]
