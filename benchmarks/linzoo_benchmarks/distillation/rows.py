"""The rows that the experiments leave; each says where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from linzoo_benchmarks.csvfile import Format
from linzoo_benchmarks.environment import describe


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Machine, versions, commit and time of a measurement."""

    device: str = ""
    torch: str = ""
    linzoo: str = ""
    commit: str = ""
    timestamp: str = ""


def origin(device: torch.device | None = None) -> Mapping[str, Any]:
    """The fields of :class:`Origin`, as they are here and now."""
    found = asdict(describe(device or torch.device("cpu")))
    return {name: found[name] for name in Origin.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How near a student is to its teacher.

    Attributes:
        kd: mean squared difference of the two predictions on held-out samples.
        guided: the same of the predictions guided at 7.5.
        features: squared error of the replaced attentions' outputs over that of the teacher's, mean over layers.
        psnr: of pictures that both draw from the same noise, in dB; mean over pictures.
    """

    kd: float
    guided: float
    features: float
    psnr: float


@dataclass(frozen=True, kw_only=True)
class AblationRow(Origin, Quality):
    """One arm with one seed.

    Attributes:
        arm: name of the arm.
        steps: optimiser steps of all stages.
        batch: samples a step.
        seconds: of processor time that the run took: reading, training and measuring on the way.
        recipe: digest of the settings; rows of other settings do not belong into one table.
    """

    arm: str
    seed: int
    steps: int
    batch: int
    seconds: float
    recipe: str


@dataclass(frozen=True, kw_only=True)
class CurveRow(Origin):
    """KD of one arm with one seed after so many optimiser steps of all stages."""

    arm: str
    seed: int
    step: int
    kd: float
    recipe: str


@dataclass(frozen=True, kw_only=True)
class TransferRow(Origin, Quality):
    """Weights for the fine-tune that came to be without training.

    Attributes:
        start: how: ``pretrained``, ``delta``, ``delta + calibrate`` or ``calibrated``.
        seed: of the ablation's run that distilled the base model.
    """

    start: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class ResolutionRow(Origin):
    """A mixer over ``factor`` times the tokens that it was fitted at.

    Attributes:
        tokens: of the first level.
        error: squared error of the attention's output over that of the teacher's output, mean over layers.
        growth: the same over the error at factor 1.
    """

    mixer: str
    seed: int
    factor: int
    tokens: int
    error: float
    growth: float


@dataclass(frozen=True, kw_only=True)
class SpeedRow(Origin):
    """One loop in a process of its own.

    Attributes:
        size: the variant whose networks they are.
        loop: ``published``, ``published, given latents``, ``ours``, …
        round: which turn; loops of one turn follow one another.
        batch: samples a step.
        samples_per_second: by the median of its steps; on a CPU, of processor time.
        peak_mb: most bytes in tensors that the process held while it built the loop and trained.
        resident_mb: most memory that the process had beyond what it had before it built the loop; 0 on a GPU.
    """

    size: str
    loop: str
    round: int
    batch: int
    samples_per_second: float
    peak_mb: float
    resident_mb: float


_COMMAND = "linzoo bench distill {}"
ABLATION = Format(AblationRow, (_COMMAND.format("ablation"),))
CURVE = Format(CurveRow, (_COMMAND.format("ablation"),))
TRANSFER = Format(TransferRow, (_COMMAND.format("transfer"),))
RESOLUTION = Format(ResolutionRow, (_COMMAND.format("resolution"),))
SPEED = Format(SpeedRow, (_COMMAND.format("speed"),))
