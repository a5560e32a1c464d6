"""A student of two small layers and a stage that fits it to a made-up teacher: a trainer's whole world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from linzoo.distillation.batch import Batch, Conditioning, Draws
from linzoo.distillation.loop import Loop, Standing
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.distillation.recipe import Align, Data, Distill, Ema, Optimizer, Recipe, Saving, Validation
from linzoo.distillation.state import States
from linzoo.distillation.trainer import Trainer

WIDTH = 8


class Layer(nn.Linear):
    """A linear layer that gives no numbers when it is told to."""

    poisoned = False

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * (float("nan") if self.poisoned else 1.0)


class ToyStudent:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.unet = nn.Sequential(Layer(WIDTH, WIDTH), nn.GELU(), Layer(WIDTH, WIDTH))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.unet.named_parameters())

    def groups(self) -> dict[str, list[nn.Parameter]]:
        first, last = self.unet[0], self.unet[2]
        return {"new": list(last.parameters()), "inherited": list(first.parameters())}


class ToyItems:
    """Item ``i`` is a row of numbers that depends on ``i`` alone."""

    def __init__(self, count: int = 32) -> None:
        self.rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1))

    def indices(
        self, seed: int, stage: str, step: int, batch: int, *, finishing: bool = False
    ) -> Sequence[int]:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed + step))
        return order[:batch].tolist()

    def load(self, indices: Sequence[int], device: torch.device) -> Batch:
        rows = self.rows[list(indices)]
        return Batch(rows, Conditioning(rows[:, None]), Conditioning(rows[:, None]))


class ToyObjective:
    """Mean over samples of the squared distance to a fixed function of the noisy sample."""

    def __init__(self, student: ToyStudent, name: str) -> None:
        self.name = name
        self.student = student
        self.poison: int | None = None
        """The step at which the second layer's output is not a number."""

    def backward(self, batch: Batch, draws: Draws, share: float) -> Mapping[str, Tensor]:
        noisy = batch.latents + 0.1 * draws.normal("noise", (WIDTH,))
        self.student.unet[2].poisoned = draws.step == self.poison
        output = self.student.unet(noisy)
        loss = (output - batch.latents.roll(1, dims=1).tanh()).square().mean()
        (share * loss).backward()
        return {"loss": loss.detach(), "kd": loss.detach() * 2}


class ToyValidator:
    def __init__(self, student: ToyStudent) -> None:
        self.student = student
        self.kept: list[int] = []

    def measure(self, step: int) -> Mapping[str, float]:
        rows = ToyItems().rows
        with torch.no_grad():
            return {"kd": float((self.student.unet(rows) - rows.roll(1, dims=1).tanh()).square().mean())}

    def keep(self, step: int, measures: Mapping[str, float]) -> None:
        self.kept.append(step)


def toy_recipe(**changes: object) -> Recipe:
    optimizer = Optimizer(new=1e-2, inherited=5e-3, warmup=2)
    settings: dict[str, object] = {
        "schema_version": 1,
        "name": "toy",
        "variant": "toy",
        "data": Data(source="none"),
        "align": Align(steps=8, batch=8, optimizer=optimizer),
        "distill": Distill(steps=12, batch=8, optimizer=optimizer, ema=Ema(decay=0.9)),
        "validation": Validation(every=5, images=0),
        "saving": Saving(every=3, keep_last=3),
    }
    return Recipe(**(settings | changes))


class ToyRun:
    """The two stages of a recipe, from the last saved state in ``folder`` on."""

    def __init__(self, folder: Path, recipe: Recipe | None = None, **changes: object) -> None:
        self.recipe = recipe or toy_recipe()
        self.student = ToyStudent()
        self.processes = Processes("cpu")
        self.states = States(folder / "state", self.recipe.saving.keep_last, 0, print)
        self.saved = self.states.latest()
        kept = {"identity": {}}
        if self.saved:
            kept |= {name: self.saved.record[name] for name in ("stage", "step", "measures", "best")}
        self.loop = Loop(
            self.recipe,
            self.processes,
            Standing(**kept),
            self.states,
            Progress(),
            **({"validator": ToyValidator(self.student)} | changes),
        )
        self.objectives = {name: ToyObjective(self.student, name) for name in ("align", "distill")}

    def run(self, until: str = "distill") -> dict[str, Tensor]:
        saved = self.saved
        for name in ("align", "distill"):
            if saved and name != saved.record["stage"]:
                continue
            trainer = self.trainer(name)
            if saved:
                trainer.load(saved.record, saved.tensors())
                saved = None
            self.loop.train(trainer)
            if name == until:
                break
        return {name: value.detach().clone() for name, value in trainer.state()[1]["weights"].items()} | {
            f"ema {name}": value.clone() for name, value in trainer.state()[1].get("ema", {}).items()
        }

    def trainer(self, name: str) -> Trainer:
        return Trainer(
            self.objectives[name],
            self.student,
            getattr(self.recipe, name),
            ToyItems(),
            seed=self.recipe.seed,
            processes=self.processes,
            max_skips=self.recipe.guards.max_skips,
        )
