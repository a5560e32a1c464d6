"""The loop around the steps of a stage: figures, callbacks, validation, saved states, a stop in good order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.guards import SpeedWatch
from linzoo.distillation.interruption import noting_signals
from linzoo.distillation.log import MetricsLog, Trackers
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.state import States
from linzoo.distillation.trainer import StepReport, Trainer
from linzoo.errors import CheckpointError
from linzoo.generate.memory import out_of_memory
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

        Whatever fails after a step, the state is saved first, as after a signal.

        Raises:
            DistillationError: a signal came, too many steps were skipped, or the disk has no room for another state.
            PluginError: a callback failed.
        """
        self.standing.stage = trainer.name
        steps = trainer.settings.steps
        self._speed = {}
        with (
            noting_signals(self.progress.say) as interruption,
            self.progress.task(trainer.name, steps, trainer.done) as advance,
        ):
            while trainer.done < steps:
                report = self._step(trainer)
                self.standing.step += 1
                failure = self._attend(trainer, report) if self.processes.main else None
                stop = self.processes.any(failure is not None or interruption.came is not None)
                last = report.number == steps
                if stop or last or report.number % self.recipe.saving.every == 0:
                    self.save(*trainer.state(), more=not (stop or last))
                advance(1, self._shown(report))
                if stop:
                    raise failure or self._stopped(interruption.came)

    def _step(self, trainer: Trainer) -> StepReport:
        try:
            return trainer.step()
        except DistillationError:  # of all processes; no weight has changed
            self.save(*trainer.state())
            raise
        except (RuntimeError, MemoryError) as error:  # of this process alone: the others cannot be waited for
            if out_of_memory(error) and self.processes.main and trainer.whole:
                self._save(*trainer.state(), more=False)
            raise

    def _attend(self, trainer: Trainer, report: StepReport) -> Exception | None:
        """What the main process does after a step; return the error that it fails with."""
        try:
            self._note(report, trainer.skips)
            if report.number == trainer.settings.steps or report.number % self.recipe.validation.every == 0:
                self._validate(trainer)
            for callback in self.callbacks:
                callback(DistillStep(step=self.standing.step, losses=report.losses))
        except Exception as error:
            return error
        return None

    def save(
        self, record: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]], *, more: bool = False
    ) -> None:
        """Save the state of the run, with numbers and tensors that only the stage knows.

        Args:
            record: the numbers.
            files: the tensors by the file that they go to.
            more: another state as large is to come, for which there must be room.

        Raises:
            CheckpointError: there is not enough room on the disk; the states before are as they were.
            DistillationError: the state is saved, and there is no room for another.
        """
        self.processes.in_main(lambda: self._save(record, files, more=more))

    def _save(
        self, record: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]], *, more: bool
    ) -> None:
        position = self.metrics.position() if self.metrics else 0
        record = {**asdict(self.standing), **record, "metrics_bytes": position}
        self.states.save(self.standing.step, record, files)
        if not more:
            return
        try:
            self.states.require_room(files)
        except CheckpointError as error:
            raise DistillationError(
                f"stopped after step {self.standing.step}, which is saved: another state finds no room. {error};"
                " then the same command with --resume latest goes on"
            ) from error

    def _note(self, report: StepReport, skips: int) -> None:
        """Write the figures of a step, and warn of what is wrong with it."""
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
        standing = self.standing
        standing.measures = None  # those before are not of these weights, should this fail
        if self.validator is None:
            return
        with trainer.averaged():
            measures = self.validator.measure(standing.step)
            self.record("validation", measures, scalars(measures))
            best = standing.best
            if self.recipe.saving.keep_best and (best is None or measures["kd"] < best["kd"]):
                self.validator.keep(standing.step, measures)
                standing.best = {"step": standing.step, "kd": measures["kd"]}
        standing.measures = measures

    def record(self, kind: str, figures: Mapping[str, Any], tracked: Mapping[str, float]) -> None:
        """Write a line that is not a step's, of which the trackers get some figures."""
        place = {"kind": kind, "step": self.standing.step, "stage": self.standing.stage}
        if self.metrics:
            self.metrics.write({**place, **figures})
        if self.trackers:
            self.trackers.log(self.standing.step, {f"{kind}/{name}": tracked[name] for name in tracked})

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


def scalars(figures: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in nested figures, by paths such as ``guided/7.5`` and ``deciles/0``."""
    numbers: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            numbers |= {f"{name}/{rest}": number for rest, number in scalars(value).items()}
        elif isinstance(value, float):
            numbers[str(name)] = value
    return numbers


def memory_in_use(device: torch.device) -> int:
    """Bytes: at most so far on a CUDA device, else of this program in host memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import psutil

    return int(psutil.Process().memory_info().rss)
