"""The loop around the steps of a stage: figures, callbacks, validation, saved states, a stop in good order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.guards import SpeedWatch
from linzoo.distillation.interruption import Interruption
from linzoo.distillation.log import MetricsLog, Trackers
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.state import States
from linzoo.distillation.trainer import StepReport, Trainer
from linzoo.errors import LinzooError
from linzoo.plugin.requests import Callback, DistillStep


@dataclass
class Standing:
    """What a run has come to, besides its weights.

    Attributes:
        identity: what the run is made from; a state of something else is not gone on from.
        stage: the stage that is under way.
        step: optimiser steps of all stages that were taken.
        kept_softmax: layers that were given back to the teacher.
        measures: of the last validation.
        best: step and KD of the best weights so far.
    """

    identity: Mapping[str, Any]
    stage: str = ""
    step: int = 0
    kept_softmax: tuple[str, ...] = ()
    measures: Mapping[str, Any] | None = None
    best: Mapping[str, Any] | None = None


class Validator(Protocol):
    """Measures the student as it stands; :class:`linzoo.distillation.validation.Validation`."""

    def measure(self, step: int) -> Mapping[str, Any]:
        """Measure, among other things ``kd``, and draw."""

    def keep(self, step: int, measures: Mapping[str, Any]) -> None:
        """Keep the weights as the best."""


@dataclass
class Loop:
    """Trains stage after stage.

    Attributes:
        recipe: the settings.
        processes: the run's processes; the main one alone writes.
        standing: what the run has come to; kept up to date.
        states: where states are saved.
        progress: what people are told.
        validator, metrics, trackers: of the main process; None in the others.
        callbacks: called after every step, in the main process.
    """

    recipe: Recipe
    processes: Processes
    standing: Standing
    states: States
    progress: Progress
    validator: Validator | None = None
    metrics: MetricsLog | None = None
    trackers: Trackers | None = None
    callbacks: Sequence[Callback] = ()
    _speed: dict[bool, SpeedWatch] = field(default_factory=dict)

    def train(self, trainer: Trainer) -> None:
        """Take the steps of a stage that are left, and save its end.

        Raises:
            DistillationError: a signal came, or too many steps were skipped.
            PluginError: a callback failed. The state is saved, as after a signal.
        """
        self.standing.stage = trainer.name
        steps, every = trainer.settings.steps, self.recipe.validation.every
        self._speed = {}
        with (
            Interruption(self.progress.say) as interruption,
            self.progress.task(trainer.name, steps, trainer.done) as advance,
        ):
            while trainer.done < steps:
                report = self._step(trainer)
                self.standing.step += 1
                self._note(report, trainer.skips)
                last = report.number == steps
                if last or report.number % every == 0:
                    self._validate(trainer)
                failure = self._call_back(report)
                stop = self.processes.any(failure is not None or interruption.came is not None)
                if stop or last or report.number % self.recipe.saving.every == 0:
                    self.save(*trainer.state())
                advance(1, self._shown(report))
                if stop:
                    raise failure or self._stopped(interruption.came)

    def _step(self, trainer: Trainer) -> StepReport:
        try:
            return trainer.step()
        except DistillationError:  # no weight has changed
            self.save(*trainer.state())
            raise

    def save(self, record: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Save the state of the run, with numbers and tensors that only the stage knows.

        Raises:
            CheckpointError: there is not enough room on the disk; the states before are as they were.
        """
        if self.processes.main:
            position = self.metrics.position() if self.metrics else 0
            record = {**asdict(self.standing), **record, "metrics_bytes": position}
            self.states.save(self.standing.step, record, files)
        self.processes.wait()

    def _note(self, report: StepReport, skips: int) -> None:
        """Write the figures of a step, and warn of what is wrong with it."""
        if not self.processes.main:
            return
        step = self.standing.step
        figures = {**report.to_json(), "memory_bytes": memory_in_use(self.processes.device)}
        if self.metrics:
            self.metrics.write({"kind": "step", "step": step, "stage": self.standing.stage, **figures})
        if self.trackers:
            self.trackers.step(step, {f"{self.standing.stage}/{name}": figures[name] for name in figures})
        if report.skipped:
            self.progress.say(
                f"warning: {self.standing.stage} step {report.number} is skipped, its numbers are not finite"
                f" ({skips} of at most {self.recipe.guards.max_skips})"
            )
        watch = self._speed.setdefault(report.finishing, SpeedWatch())  # larger sizes are slower, and may be
        if warning := watch.add(report.seconds):
            self.progress.say(warning)

    def _validate(self, trainer: Trainer) -> None:
        """Measure the weights that count, and keep them where they are the best so far."""
        if self.processes.main and self.validator is not None:
            standing = self.standing
            with trainer.averaged():
                measures = self.validator.measure(standing.step)
                best = standing.best
                if self.recipe.saving.keep_best and (best is None or measures["kd"] < best["kd"]):
                    standing.best = {"step": standing.step, "kd": measures["kd"]}
                    self.validator.keep(standing.step, measures)
            standing.measures = measures
            self.record("validation", measures)
        self.processes.wait()

    def record(self, kind: str, figures: Mapping[str, Any]) -> None:
        """Write a line that is not a step's."""
        place = {"kind": kind, "step": self.standing.step, "stage": self.standing.stage}
        if self.metrics:
            self.metrics.write({**place, **figures})
        if self.trackers:
            numbers = {name: value for name, value in figures.items() if isinstance(value, float)}
            self.trackers.log(self.standing.step, {f"{kind}/{name}": numbers[name] for name in numbers})

    def _call_back(self, report: StepReport) -> LinzooError | None:
        """Hand a step to the callbacks; return the error of the first that fails."""
        try:
            for callback in self.callbacks:
                callback(DistillStep(step=self.standing.step, losses=report.losses))
        except LinzooError as error:
            return error
        return None

    def _stopped(self, came: str | None) -> DistillationError:
        return DistillationError(
            f"stopped by {came or 'another process'} after step {self.standing.step}, which is saved; the same command"
            " with --resume latest goes on from there"
        )

    def _shown(self, report: StepReport) -> dict[str, float]:
        shown = {"loss": report.losses["loss"], "samples/s": report.samples / report.seconds}
        if self.standing.measures:
            shown["KD"] = self.standing.measures["kd"]
        return shown


def memory_in_use(device: torch.device) -> int:
    """Bytes: at most so far on a CUDA device, else of this program in host memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)
