"""The arms of the ablation: the published recipe, then one change after another up to linzoo's own.

``tuned`` is the published recipe again at the best of the learning rates 0.0003, 0.001, 0.003 and 0.01 for mini; the
others have that of the shipped ``official-mini``, 0.001, ten times the published one.

An arm is a shipped recipe with settings changed, so that what runs is what a user of ``linzoo distill`` runs. Each arm
from ``teacher`` to ``guided`` keeps the changes of those before it. All arms take the same number of optimiser steps on
the same data with the same batch, align's steps among them, and are measured alike.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS, ALIGN_STEPS, BATCH = 160, 20, 8
SEEDS = (0, 1, 2)
"""Of initial weights, the order of the data, and noise. Held-out samples and what is measured on them stay the same."""

CURVE_EVERY = 20
SAMPLES = 64
"""Held-out samples that are measured on, on the way and at the end."""
MEASURED = (
    f"validation.every={CURVE_EVERY}",
    "validation.scales=[7.5]",
    f"validation.samples={SAMPLES}",
    "validation.images=0",
    f"data.held_out={SAMPLES}",
)


@dataclass(frozen=True)
class Arm:
    """A row of the table.

    Attributes:
        name: its id.
        label: what the table calls it.
        start: the init recipe that the checkpoint is converted with.
        recipe: the distill recipe; None measures the checkpoint as it starts.
        changes: settings that are changed in it.
    """

    name: str
    label: str
    start: str
    recipe: str | None
    changes: tuple[str, ...] = ()

    def settings(self, seed: int) -> tuple[str, ...]:
        """All settings that are changed in the recipe."""
        return (*MEASURED, *self.changes, f"seed={seed}")


def _trained(aligned: bool) -> tuple[str, ...]:
    if not aligned:
        return (f"distill.steps={STEPS}", f"distill.batch={BATCH}")
    return (
        f"align.steps={ALIGN_STEPS}",
        f"align.batch={BATCH}",
        f"distill.steps={STEPS - ALIGN_STEPS}",
        f"distill.batch={BATCH}",
    )


_PUBLISHED = _trained(aligned=False)
_TUNED = (*_PUBLISHED, "distill.optimizer={new: 0.01, inherited: 0.01}")
_TEACHER = (*_PUBLISHED, "start=teacher")
_SHARPNESS = (*_TEACHER, "calibrate.ridge=[]")
_RIDGE = (*_TEACHER, "calibrate={}")
_ALIGN = (*_RIDGE, *_trained(aligned=True), "align.optimizer={new: 0.003, inherited: 0.003}")
_FEATURES = (*_ALIGN, "distill.loss.features.normalize=true")
_GUIDED = (*_FEATURES, "distill.loss.guided={}", "data.caption_dropout=0.1")
_OURS = _trained(aligned=True)

ARMS = (
    Arm("official", "official: random start, losses 1 / 0.5 / 0.5", "random", "official-mini", _PUBLISHED),
    Arm("tuned", "official at the rate that suits it best on mini, 0.01", "random", "official-mini", _TUNED),
    Arm("teacher", "+ teacher's weights to start from", "teacher", "official-mini", _TEACHER),
    Arm("sharpness", "+ sharpness", "teacher", "official-mini", _SHARPNESS),
    Arm("ridge", "+ ridge", "teacher", "official-mini", _RIDGE),
    Arm("align", f"+ align ({ALIGN_STEPS} of the steps)", "teacher", "official-mini", _ALIGN),
    Arm("features", "+ normalised features", "teacher", "official-mini", _FEATURES),
    Arm("guided", "+ CFG-aware", "teacher", "official-mini", _GUIDED),
    Arm("ours", "ours complete", "teacher", "mini", _OURS),
    Arm("softmax", "ours complete, one layer kept softmax", "teacher", "mini", (*_OURS, "keep_softmax=1")),
)

UNTRAINED = (
    Arm("copy", "plain copy, untrained", "teacher", None),
    Arm("calibrated", "calibrated, untrained", "teacher", "mini", ("align=null", "distill=null")),
)
