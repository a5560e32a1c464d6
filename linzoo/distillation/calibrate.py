"""Stage 0: what can be had without training. Always chosen by KD: a lower feature error does not imply a lower KD."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from linzoo.distillation.batch import Batch
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.observation import Observation
from linzoo.distillation.progress import Progress
from linzoo.distillation.recipe import Calibrate
from linzoo.distillation.ridge import RidgeRegression
from linzoo.distillation.sharpness import LayerSharpness, SharpnessSearch
from linzoo.distillation.student import Student

SEARCHED = 1
"""Timesteps a sample that the search for sharpness looks at: choosing among a few needs less than a regression."""


@dataclass(frozen=True)
class Calibration:
    """What calibration did.

    Attributes:
        kd: on the held-out samples that the choices were made by: ``start``, then after ``sharpness`` and ``ridge``.
        tried: the same for everything that was tried.
        sharpness: what was chosen by layer; empty where queries and keys stayed as they were.
        ridge: the strength that was chosen; None where ``to_out`` stayed as it was.
    """

    kd: Mapping[str, float]
    tried: Mapping[str, float]
    sharpness: Mapping[str, LayerSharpness]
    ridge: float | None


def calibrate(
    student: Student,
    batches: Sequence[Batch],
    evaluator: Evaluator,
    settings: Calibrate,
    seed: int = 0,
    progress: Progress | None = None,
) -> Calibration:
    """Sharpen a student's queries and keys, then fit ``to_out``; each only if KD falls, so that it never rises.

    No gradients, and nothing is kept of the samples but sums of C x C a layer. The same input gives the same weights.

    Args:
        student: is changed.
        batches: training samples on the student's device, as many at once as its memory allows.
        evaluator: measures KD on other samples.
        settings: what is tried.
        seed: of the noise.
        progress: is told of each forward pass over ``batches``.

    Raises:
        DistillationError: KD is not finite to begin with, so that nothing can be chosen by it.
    """
    observation = Observation(student, evaluator.noise, batches, seed)
    trials = _Trials(student, evaluator)
    kd = {"start": trials.kd}
    sharpness: Mapping[str, LayerSharpness] = {}
    ridge = None
    searches = bool(settings.shift) or set(settings.sharpness) != {1}
    passes = SEARCHED * (searches + bool(settings.shift)) + settings.timesteps * bool(settings.ridge)
    with (progress or Progress()).task("calibrate", passes * len(batches)) as advance:

        def step() -> None:
            advance(1, {"kd": trials.kd})

        if searches:
            sharpness = _sharpen(student, observation, trials, settings, step)
            kd["sharpness"] = trials.kd
        if settings.ridge:
            ridge = _fit(student, observation, trials, settings, step)
            kd["ridge"] = trials.kd
    return Calibration(kd, trials.tried, sharpness, ridge)


def _sharpen(
    student: Student, observation: Observation, trials: _Trials, settings: Calibrate, step: Callable[[], None]
) -> Mapping[str, LayerSharpness]:
    search = SharpnessSearch(settings.sharpness, settings.shift)
    if settings.shift:
        observation.show(search.measure, SEARCHED, step)
    observation.show(search.compare, SEARCHED, step)
    options = {"sharpness own": search.best("own")}
    if settings.shift:
        options["sharpness paired"] = search.best("own", "paired")
    chosen = trials.pick(
        {name: partial(search.apply, student.layers, each) for name, each in options.items()}
    )
    return options[chosen] if chosen else {}


def _fit(
    student: Student, observation: Observation, trials: _Trials, settings: Calibrate, step: Callable[[], None]
) -> float | None:
    regression = RidgeRegression()
    observation.show(regression.add, settings.timesteps, step)
    strengths = {f"ridge {strength:g}": strength for strength in settings.ridge}
    chosen = trials.pick(
        {name: partial(regression.apply, student.layers, each) for name, each in strengths.items()}
    )
    return strengths[chosen] if chosen else None


class _Trials:
    """Changes a student's weights, and takes back what does not lower KD.

    Attributes:
        kd: of the weights as they are.
        tried: KD of everything that was tried.
    """

    def __init__(self, student: Student, evaluator: Evaluator) -> None:
        self._student = student
        self._evaluator = evaluator
        self.kd = evaluator.kd()
        if not math.isfinite(self.kd):
            raise DistillationError(
                f"The outputs of teacher and student on the held-out samples differ by {self.kd}: one of them is not finite. "
                "Try precision float32, and check the teacher by drawing with it (linzoo generate)."
            )
        self.tried = {"start": self.kd}

    def pick(self, options: Mapping[str, Callable[[], None]]) -> str | None:
        """Try changes of the present weights one by one, and keep the best; None where none is better than nothing."""
        best = before = self._weights()
        chosen = None
        for name, change in options.items():
            change()
            kd = self.tried[name] = self._evaluator.kd()
            if kd < self.kd:
                self.kd, chosen, best = kd, name, self._weights()
            self._restore(before)
        self._restore(best)
        return chosen

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: weight.detach().to("cpu", copy=True) for name, weight in self._student.parameters.items()
        }

    @torch.no_grad()
    def _restore(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self._student.parameters.items():
            weight.copy_(weights[name])
