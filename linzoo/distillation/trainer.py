"""One stage of a distillation, optimiser step by optimiser step, in any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from linzoo.distillation.batch import Batch, Draws
from linzoo.distillation.ema import WeightAverage
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.guards import first_non_finite
from linzoo.distillation.optimization import GROUPS, Optimization
from linzoo.distillation.processes import Processes
from linzoo.distillation.recipe import Distill, Stage

State = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]
"""Plain numbers, and tensors by the file that they go to."""


class Objective(Protocol):
    """What a stage minimises.

    Attributes:
        name: ``align`` or ``distill``.
    """

    name: str

    def backward(self, batch: Batch, draws: Draws, share: float) -> Mapping[str, Tensor]:
        """Add the gradients of ``share`` times the loss of a micro-batch; return the losses, among them ``loss``."""


class Trainable(Protocol):
    """The student, as far as a trainer needs it."""

    unet: nn.Module

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """What is trained, by tensor name."""

    def groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """The parameters that are new, and those that the teacher had."""


class Items(Protocol):
    """What is trained on; :class:`linzoo.distillation.data.latents.LatentData`."""

    def indices(
        self, seed: int, stage: str, step: int, batch: int, *, finishing: bool = False
    ) -> Sequence[int]:
        """The items of a step's batch."""

    def load(self, indices: Sequence[int], device: torch.device) -> Batch:
        """Read items."""


@dataclass(frozen=True)
class StepReport:
    """What a step did.

    Attributes:
        number: of the stage, from 1.
        losses: means over the whole batch.
        norms: of the gradients before clipping: ``total`` and those of each parameter group.
        rates: the learning rate of each parameter group.
        skipped: whether the weights stayed as they were, since a number was not finite.
        finishing: whether it is of the stage's last part, which has samples of all sizes.
        samples: in the whole batch.
        seconds: the step took, of which ``data_seconds`` for reading.
    """

    number: int
    losses: Mapping[str, float]
    norms: Mapping[str, float]
    rates: Mapping[str, float]
    skipped: bool
    finishing: bool
    samples: int
    seconds: float
    data_seconds: float

    def to_json(self) -> dict[str, Any]:
        """One line of ``metrics.jsonl``."""
        return {
            "stage_step": self.number,
            **self.losses,
            "grad_norm": self.norms["total"],
            **{f"grad_norm_{name}": norm for name, norm in self.norms.items() if name != "total"},
            **{f"lr_{name}": rate for name, rate in self.rates.items()},
            "skipped": self.skipped,
            "seconds": round(self.seconds, 4),
            "data_seconds": round(self.data_seconds, 4),
            "samples_per_second": round(self.samples / self.seconds, 3),
        }


class Trainer:
    """Trains one stage.

    Args:
        objective: what is minimised.
        student: what is trained.
        settings: the stage's part of the recipe.
        items: what is trained on.
        seed: of the recipe.
        processes: the run's processes.
        max_skips: so many steps may be skipped for numbers that are not finite.

    Attributes:
        done: steps that were taken, the skipped ones among them.
        skips: steps that were skipped.
        whole: whether weights, moments and average are of the same step: not so amid their update.
    """

    def __init__(
        self,
        objective: Objective,
        student: Trainable,
        settings: Stage,
        items: Items,
        *,
        seed: int,
        processes: Processes,
        max_skips: int,
    ) -> None:
        self.name = objective.name
        self.settings = settings
        self.done = 0
        self.skips = 0
        self.whole = True
        self._objective = objective
        self._student = student
        self._items = items
        self._seed = seed
        self._processes = processes
        self._max_skips = max_skips
        self._groups = {name: list(parameters) for name, parameters in student.groups().items()}
        self._parameters = dict(student.parameters)
        self._optimization = Optimization(self._parameters, self._groups, settings)
        ema = settings.ema if isinstance(settings, Distill) else None
        self._average = WeightAverage(self._parameters, ema) if ema else None
        self._slots = range(processes.rank, settings.batch, processes.count)

    def step(self) -> StepReport:
        """Take the next step.

        Raises:
            DistillationError: more steps than allowed had numbers that are not finite.
        """
        began = time.perf_counter()
        self._clear_gradients()
        losses: dict[str, Tensor] = {}
        reading = 0.0
        for batch, draws, seconds in self._micro_batches():
            reading += seconds
            share = len(batch) / self.settings.batch
            for name, value in self._objective.backward(batch, draws, share).items():
                losses[name] = losses.get(name, torch.zeros((), device=value.device)) + share * value
        figures = self._processes.sum_scalars(losses)
        self._processes.sum_gradients(list(self._parameters.values()))
        norms = self._norms()
        skipped = not all(map(math.isfinite, (figures["loss"], norms["total"])))
        self._optimization.set_rates(self.done)
        rates = self._optimization.rates()
        if skipped:
            self._skip(figures["loss"])
        else:
            self._update(norms["total"])
        self._clear_gradients()
        finishing = self._finishing()
        self.done += 1
        return StepReport(
            number=self.done,
            losses=figures,
            norms=norms,
            rates=rates,
            skipped=skipped,
            finishing=finishing,
            samples=self.settings.batch,
            seconds=time.perf_counter() - began,
            data_seconds=reading,
        )

    def averaged(self) -> AbstractContextManager[None]:
        """The weights that count, for the length of a ``with`` block: their average where the stage keeps one."""
        return nullcontext() if self._average is None else self._average.in_place()

    def state(self) -> State:
        """All that the next steps depend on."""
        optimizer, numbers = self._optimization.state()
        weights = {name: parameter.detach() for name, parameter in self._parameters.items()}
        files = {"weights": weights, "optimizer": optimizer}
        record = {"stage_step": self.done, "skips": self.skips, "optimizer": numbers}
        if self._average is not None:
            files["ema"] = self._average.average
            record["ema_updates"] = self._average.updates
        return record, files

    @torch.no_grad()
    def load(self, record: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take back what :meth:`state` gave."""
        self.done, self.skips = record["stage_step"], record["skips"]
        for name, parameter in self._parameters.items():
            parameter.copy_(files["weights"][name])
        self._optimization.load(files["optimizer"], record["optimizer"])
        if self._average is not None:
            self._average.updates = record["ema_updates"]
            for name, average in self._average.average.items():
                average.copy_(files["ema"][name])

    def _micro_batches(self) -> Iterator[tuple[Batch, Draws, float]]:
        """Yield this process's part of the next step, a micro-batch at a time, with the seconds that reading took."""
        settings = self.settings
        indices = self._items.indices(
            self._seed, self.name, self.done, settings.batch, finishing=self._finishing()
        )
        at_once = settings.micro_batch or len(self._slots)
        for start in range(0, len(self._slots), at_once):
            began = time.perf_counter()
            slots = self._slots[start : start + at_once]
            batch = self._items.load([indices[slot] for slot in slots], self._processes.device)
            draws = Draws(self._seed, self.name, self.done, slots)
            yield batch, draws, time.perf_counter() - began

    def _finishing(self) -> bool:
        finish = self.settings.finish if isinstance(self.settings, Distill) else None
        return finish is not None and self.done >= round(self.settings.steps * (1 - finish.fraction))

    def _norms(self) -> dict[str, float]:
        """Of the gradients: of each group, and ``total``."""
        norms = {}
        for name in GROUPS:
            gradients = [each.grad for each in self._groups[name] if each.grad is not None]
            if gradients:
                norms[name] = nn.utils.get_total_norm(gradients)
        norms["total"] = nn.utils.get_total_norm(list(norms.values()))
        return dict(zip(norms, torch.stack(list(norms.values())).tolist(), strict=True))

    def _update(self, norm: float) -> None:
        self.whole = False
        clip = self.settings.optimizer.clip
        if clip is not None:
            nn.utils.clip_grads_with_norm_(self._parameters.values(), clip, torch.tensor(norm))
        self._optimization.optimizer.step()
        if self._average is not None:
            self._average.update()
        self.whole = True

    def _skip(self, loss: float) -> None:
        if self.skips >= self._max_skips:
            places = [place for place in self._processes.gather(self._first_non_finite()) if place]
            where = places[0] if places else "it could not be told where"
            raise DistillationError(
                f"{self.name} step {self.done + 1}: the loss is {loss:g} and the gradients are not all finite; this is"
                f" one such step more than guards.max_skips allows ({self._max_skips}). First number that is not finite:"
                f" {where}. The state before this step is saved; a lower learning rate or clip, or precision float32,"
                " may help a new run."
            )
        self.skips += 1

    def _first_non_finite(self) -> str | None:
        """Do the step again and name where its first number that is not finite comes from."""

        def again() -> None:
            for batch, draws, _ in self._micro_batches():
                self._objective.backward(batch, draws, len(batch) / self.settings.batch)

        for batch, _, _ in self._micro_batches():
            if not torch.isfinite(batch.latents).all() or not torch.isfinite(batch.conditioning.text).all():
                return "the training data"
        self._clear_gradients()
        layer = first_non_finite(self._student.unet, again)
        if layer is not None:
            return f"the output of layer '{layer}'" if layer else "the output of the whole UNet"
        for name, parameter in self._parameters.items():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of '{name}'"
        return None

    def _clear_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None
