"""How long a run would take: one step of each stage, timed on this machine with made-up samples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from linzoo.attention.handle import read_linfusion
from linzoo.distillation.batch import Batch, Conditioning
from linzoo.distillation.data.encode import encode_captions
from linzoo.distillation.data.items import Size
from linzoo.distillation.data.maker import at_once
from linzoo.distillation.noise import Noise
from linzoo.distillation.planning import RunPlan, item_count
from linzoo.distillation.processes import Processes
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.stages import OBJECTIVES
from linzoo.distillation.student import Student
from linzoo.distillation.teacher import encoders_to, open_for_training
from linzoo.distillation.trainer import Trainer

if TYPE_CHECKING:
    from linzoo.registry import Registry


@dataclass(frozen=True)
class Timing:
    """How long a part of a run takes.

    Attributes:
        stage: its name; ``data`` where the teacher draws it.
        step: seconds of a step, on average over all kinds of steps; of ``data``, of a drawing.
        total: seconds of the whole.
    """

    stage: str
    step: float
    total: float


def rehearse(plan: RunPlan, registry: Registry, device: str | None) -> Iterator[Timing]:
    """Time what the teacher draws, and a micro-batch of each stage at the size of the data, without guidance; one process.

    Nothing is looked up in the cache: what it has is not drawn again. What the other steps take, larger ones and guided ones, is told from their number of operations.

    Raises:
        DistillationError: see :class:`Noise`.
        CheckpointError: the teacher is no complete pipeline.
    """
    recipe = _plain(plan.settings)
    processes = Processes(device)
    pipe = open_for_training(plan.teacher, registry, recipe, processes.device)
    texts = encode_captions(pipe, [""], processes.device)
    encoders_to(pipe, torch.device("cpu"))
    student = Student(pipe.unet, read_linfusion(plan.checkpoint.path, registry=registry))
    if recipe.gradient_checkpointing:
        student.enable_gradient_checkpointing()
    noise = Noise(pipe.scheduler)
    native = plan.teacher.native_size or 512
    items = MadeUpItems(recipe.data.size or (native, native), texts)
    if recipe.data.kind == "prompts":
        yield _drawing(plan, student, noise, items)
    costs = plan.arithmetic()
    for each, all_kinds in zip(costs.estimate(recipe).stages, costs.estimate().stages, strict=True):
        objective = OBJECTIVES[each.name](student, noise, recipe)
        settings = plan.stages[each.name].model_copy(update={"batch": each.micro_batch})
        trainer = Trainer(
            objective, student, settings, items, seed=recipe.seed, processes=processes, max_skips=0
        )
        trainer.step()  # warms up
        seconds = trainer.step().seconds * plan.stages[each.name].batch / each.micro_batch
        step = seconds * all_kinds.flops / each.flops
        yield Timing(each.name, step, step * all_kinds.steps)


def _drawing(plan: RunPlan, student: Student, noise: Noise, items: MadeUpItems) -> Timing:
    """Time one guided sampling step of the teacher at each size that it draws at."""
    distill = plan.settings.distill
    sizes = (items.size, *(distill.finish.sizes if distill and distill.finish else ()))
    seconds = []
    for size in dict.fromkeys(sizes):
        together = at_once(size)
        batch = MadeUpItems(size, items.texts).load(range(2 * together), student.unet.device)
        timesteps = torch.full((2 * together,), noise.steps - 1)
        with torch.no_grad(), student.teacher():
            for _ in range(2):  # the first warms up
                began = time.perf_counter()
                student.predict(batch.latents, timesteps, batch.conditioning).sum().item()
        seconds.append((time.perf_counter() - began) / together * plan.settings.data.sampling.steps)
    drawings = item_count(plan) or 0
    return Timing("data", sum(seconds) / len(seconds), sum(seconds) * drawings)


class MadeUpItems:
    """Samples of noise, as good as any other to take time with.

    Args:
        size: width and height in pixels.
        texts: what one caption is encoded to.
    """

    def __init__(self, size: Size, texts: Conditioning) -> None:
        self.size = size
        self.texts = texts

    def indices(self, seed: int, stage: str, step: int, batch: int, *, finishing: bool = False) -> list[int]:  # noqa: ARG002
        """Places in a data set that there is not."""
        return list(range(batch))

    def load(self, indices: Sequence[int], device: torch.device) -> Batch:
        """So many samples."""
        width, height = self.size
        count = len(indices)
        latents = torch.randn(count, 4, height // 8, width // 8, device=device)
        text = self.texts.text.float().expand(count, -1, -1)
        if self.texts.pooled is None:
            return Batch(latents, Conditioning(text), Conditioning(text))
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=device)
        conditioning = Conditioning(text, self.texts.pooled.float().expand(count, -1), ids.expand(count, -1))
        return Batch(latents, conditioning, conditioning)


def _plain(recipe: Recipe) -> Recipe:
    """The recipe with steps of one kind alone."""
    if recipe.distill is None:
        return recipe
    losses = recipe.distill.loss.model_copy(update={"guided": None})
    changes: dict[str, Any] = {"loss": losses, "on_policy": None, "finish": None}
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update=changes)})
