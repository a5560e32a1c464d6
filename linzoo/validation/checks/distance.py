"""How far the student's predictions are from the teacher's, and which layers make the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.batch import Draws
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.noise import Noise
from linzoo.distillation.objective import mean_square, relative_error
from linzoo.distillation.observation import Observation
from linzoo.distillation.select import scores
from linzoo.distillation.student import Student
from linzoo.plugin import Chart, Measure
from linzoo.validation.checks.faults import worst_first
from linzoo.validation.subject import Subject

_TIMESTEPS = 4
"""At how many timesteps each sample's attentions are looked at."""
_BLAMED = 16
"""Samples that tell which layer costs how much: a forward pass over them for every layer."""
_LEAST_STEPS = 4
_PREDICTS = "Loss as what it is said to predict, over the lowest as anything else"
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


def distance(subject: Subject) -> Iterator[Measure]:
    """KD by timestep, under guidance and by layer, on latents that the teacher drew."""
    latents = subject.drawings("teacher").latents(subject.settings.samples)
    with subject.student() as student:
        with subject.progress.task("measuring KD", 1) as told:
            found = subject.evaluator(student, len(latents)).evaluate()
            told(1, {})
        costs = _costs(subject, student)
        errors = attention_errors(subject, student, latents)
    culprits = worst_first(costs)
    yield Measure(
        name="kd",
        title="KD",
        value=found.kd,
        detail="mean square of the difference of the predictions, at timesteps spread over the whole range",
        culprits=tuple(culprits[:5]),
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
        culprits=tuple(culprits[:5]),
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


def prediction_type(subject: Subject) -> Iterator[Measure]:
    """Whether the teacher predicts what it is said to predict: its loss as that, beside its loss as anything else."""
    if subject.settings.steps < _LEAST_STEPS:
        why = f"what is drawn in fewer than {_LEAST_STEPS} steps tells nothing of it"
        yield Measure(name="prediction-type", title=_PREDICTS, value=None, skipped=why)
        return
    latents = subject.drawings("teacher").latents(subject.settings.samples)
    kinds = {kind: noise for kind in _PREDICTIONS if (noise := _noise_of(subject, kind)) is not None}
    errors: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    sizes: dict[str, list[Tensor]] = {kind: [] for kind in kinds}
    done = 0
    with subject.student() as student, student.teacher(), torch.no_grad():
        for batch in subject.batches(latents):
            draws = Draws(subject.seed, "prediction type", 0, range(done, done + len(batch)))
            done += len(batch)
            noised = subject.noise.draw(batch.latents, draws)
            output = student.predict(noised.latents, noised.timesteps, batch.conditioning)
            for kind, noise in kinds.items():
                target = noise.target(batch.latents, noised.noise, noised.timesteps)
                errors[kind].append(mean_square(output - target))
                sizes[kind].append(mean_square(target))
    losses = {kind: float(torch.cat(errors[kind]).mean() / torch.cat(sizes[kind]).mean()) for kind in kinds}
    said = subject.prediction_type
    likeliest = min(losses, key=lambda kind: losses[kind])
    yield Measure(
        name="prediction-type",
        title=_PREDICTS,
        value=losses[said] / min(loss for kind, loss in losses.items() if kind != said),
        bar=1.0,
        detail="relative losses: " + ", ".join(f"{kind} {loss:.3g}" for kind, loss in losses.items()),
        culprits=(f"prediction_type: said to be {said}, and it predicts {likeliest}",),
        data={"losses": losses},
    )


def _noise_of(subject: Subject, kind: str) -> Noise | None:
    """The teacher's diffusion process, were this what it predicts; None where that cannot be."""
    scheduler = subject.pipe.scheduler
    try:
        return Noise(type(scheduler).from_config(scheduler.config, prediction_type=kind))
    except DistillationError:
        return None


def attention_error(errors: Mapping[str, float]) -> Measure:
    """The worst layer's error, with all in a chart."""
    ranked = worst_first(errors)
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

    batches = subject.batches(latents)
    total = _TIMESTEPS * len(batches)
    with subject.progress.task("looking at each layer", total) as told:
        Observation(student, subject.noise, batches, subject.seed).show(
            visit, _TIMESTEPS, lambda: told(1, {})
        )
    return {name: float(torch.cat(errors).mean()) for name, errors in found.items()}
