"""How far the student's predictions are from the teacher's, and which layers make the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.batch import Draws
from linzoo.distillation.objective import mean_square, relative_error
from linzoo.distillation.observation import Observation
from linzoo.distillation.select import scores
from linzoo.distillation.student import Student
from linzoo.plugin import Chart, Measure
from linzoo.validation.batches import make_batches
from linzoo.validation.subject import Subject

_TIMESTEPS = 4
"""At how many timesteps each sample's attentions are looked at."""
_BLAMED = 16
"""Samples that tell which layer costs how much: a forward pass over them for every layer."""
_LOSS_BAR = 0.8


def distance(subject: Subject) -> Iterator[Measure]:
    """KD by timestep, under guidance and by layer, on latents that the teacher drew."""
    latents = subject.drawings("teacher").latents(subject.settings.samples)
    with subject.student() as student:
        with subject.progress.task("measuring KD", 1) as told:
            found = subject.evaluator(student, len(latents)).evaluate()
            told(1, {})
        costs = _costs(subject, student)
        errors = attention_errors(subject, student, latents)
    culprits = tuple(sorted(costs, key=lambda name: -costs[name]))
    yield Measure(
        name="kd",
        title="KD",
        value=found.kd,
        detail="mean square of the difference of the predictions, at timesteps spread over the whole range",
        culprits=culprits[:5],
        charts=(
            Chart(
                title="KD by timestep",
                kind="bars",
                x="timesteps, from little noise to much",
                y="mean squared difference",
                series={
                    "student": {
                        f"{10 * i}-{10 * i + 10} %": kd
                        for i, kd in enumerate(found.deciles)
                        if kd is not None
                    }
                },
            ),
            Chart(
                title="What each layer costs",
                kind="bars",
                x="layer",
                y="KD that is gone when this layer is softmax again",
                series={"student": costs},
            ),
        ),
        data={"deciles": list(found.deciles), "costs": costs},
    )
    scale = subject.settings.guidance
    yield Measure(
        name="guided-kd",
        title=f"KD under guidance {scale:g}",
        value=found.guided[scale],
        detail="mean square of the difference of the guided predictions, as a sampler meets it",
        culprits=culprits[:5],
        charts=(
            Chart(
                title="KD under guidance",
                kind="lines",
                x="guidance scale",
                y="mean squared difference",
                series={"student": {f"{each:g}": kd for each, kd in found.guided.items()}},
            ),
        ),
    )
    yield attention_error(errors)


def _costs(subject: Subject, student: Student) -> dict[str, float]:
    """By layer, the KD that is gone when it is softmax again."""
    with subject.progress.task("restoring each layer", len(student.layers)) as told:
        evaluator = subject.evaluator(student, _BLAMED)
        whole = evaluator.kd()
        without = scores(student, evaluator, lambda: told(1, {}))
    return {name: whole - kd for name, kd in without.items()}


def teacher_loss(subject: Subject) -> Iterator[Measure]:
    """Whether the teacher predicts what it is said to predict: its own loss, which a wrong prediction type spoils."""
    latents = subject.drawings("teacher").latents(subject.settings.samples)
    losses, sizes = [], []
    with subject.student() as student, student.teacher(), torch.no_grad():
        for index, batch in enumerate(
            make_batches(
                subject.pipe,
                latents,
                subject.settings.prompts[: len(latents)],
                subject.settings.batch,
                subject.device,
            )
        ):
            draws = Draws(subject.seed, "teacher loss", index, range(len(batch)))
            noised = subject.noise.draw(batch.latents, draws)
            target = subject.noise.target(batch.latents, noised.noise, noised.timesteps)
            output = student.predict(noised.latents, noised.timesteps, batch.conditioning)
            losses.append(mean_square(output - target))
            sizes.append(mean_square(target))
    yield Measure(
        name="teacher-loss",
        title="The teacher's own loss, relative",
        value=float(torch.cat(losses).mean() / torch.cat(sizes).mean()),
        bar=_LOSS_BAR,
        detail="error of what it predicts over the mean square of that; near 1 or above, it predicts something else",
        culprits=(f"prediction_type {subject.prediction_type}",),
    )


def attention_error(errors: Mapping[str, float]) -> Measure:
    """The worst layer's error, with all in a chart."""
    ranked = sorted(errors, key=lambda name: -errors[name])
    return Measure(
        name="attention-error",
        title="Error of the worst layer, relative",
        value=errors[ranked[0]],
        detail="mean squared difference of an attention's output, given what the teacher's was given, over the mean"
        " square of the teacher's",
        culprits=tuple(ranked[:5]),
        charts=(
            Chart(
                title="Error of each layer",
                kind="bars",
                x="layer",
                y="relative squared error",
                series={"student": dict(errors)},
            ),
        ),
        data={"layers": dict(errors)},
    )


def attention_errors(subject: Subject, student: Student, latents: Tensor) -> dict[str, float]:
    """By layer, what its linear attention makes of the teacher's inputs against what the teacher's attention makes.

    Errors of other layers do not count, unlike in the features of a distillation's validation.

    Args:
        subject: whose teacher it is.
        student: mounted.
        latents: what is noised, (N, 4, height / 8, width / 8).
    """
    found: dict[str, list[Tensor]] = {name: [] for name in student.layers}

    def visit(name: str, layer: MountedAttention, x: Tensor, y: Tensor) -> None:
        with student.autocast():
            output = layer.mix_and_project(x, None)
        found[name].append(relative_error(output, y).cpu())

    captions = subject.settings.prompts[: len(latents)]
    batches = make_batches(subject.pipe, latents, captions, subject.settings.batch, subject.device)
    total = _TIMESTEPS * len(batches)
    with subject.progress.task("looking at each layer", total) as told:
        Observation(student, subject.noise, batches, subject.seed).show(
            visit, _TIMESTEPS, lambda: told(1, {})
        )
    return {name: float(torch.cat(errors).mean()) for name, errors in found.items()}
