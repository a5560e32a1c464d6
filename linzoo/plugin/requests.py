"""What the behaviour hooks are asked with, and what they answer.

Every such hook takes one object, so that a later version can tell it more without changing its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linzoo.plugin.entries import PredictionType, Variant
from linzoo.plugin.spec import Spec, check_filled

DType = Literal["float32", "float16", "bfloat16"]


class Veto(Exception):  # noqa: N818 (it reads as what it is: raise Veto("why"))
    """Raised by ``linzoo_before_push`` to stop a push; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherRequest:
    """A teacher that is wanted as a diffusers pipeline.

    Attributes:
        source: what the user named: a folder, a file, ``hf://repo[@rev][/file]`` or a registered name.
        path: the folder or file on disk that the source came down to.
        variant: the variant that was detected or named.
        prediction_type: what the teacher's UNet predicts.
        dtype: the precision that the weights are wanted in.
        device: the torch device that they are wanted on.
    """

    source: str
    path: Path
    variant: Variant
    prediction_type: PredictionType
    dtype: DType = "float32"
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTeacher:
    """A teacher that is ready to draw.

    Attributes:
        pipeline: the ``diffusers.DiffusionPipeline``.
    """

    pipeline: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A model card that is being written.

    Attributes:
        checkpoint: the folder with the LinFusion checkpoint.
        variant: the variant that it was made for.
        lock: what its ``linzoo.lock.json`` holds.
    """

    checkpoint: Path
    variant: Variant
    lock: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardSection(Spec):
    """A section that a plugin adds to a model card.

    Attributes:
        title: its heading.
        markdown: its text.
        order: where it stands: sections are sorted by this, then by plugin.
    """

    title: str
    markdown: str
    order: int = 100

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        check_filled("CardSection.title", self.title)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillRun:
    """A distillation that is about to start.

    Attributes:
        variant: the variant that is distilled.
        recipe: name of the recipe that it follows.
        document: the recipe's settings, every default written out.
        teacher: the SOURCE of the teacher.
        output: the folder that the run writes to.
        steps: how many optimiser steps it takes in all.
    """

    variant: Variant
    recipe: str
    document: Mapping[str, Any]
    teacher: str
    output: Path
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillStep:
    """One optimiser step that was taken.

    Attributes:
        step: its number, counted from 1 over all stages.
        losses: each loss by name.
    """

    step: int
    losses: Mapping[str, float]


Callback = Callable[[DistillStep], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushPlan:
    """A push to the Hub that is about to happen.

    Attributes:
        repo: the Hub id of the repository, ``"user/name"``.
        checkpoint: the folder that is pushed.
        files: the files of it, with ``/`` between the parts.
        variant: the variant that the checkpoint was made for.
        private: whether the repository is private.
        license: the licence id that the card declares; None where there is none.
    """

    repo: str
    checkpoint: Path
    files: tuple[str, ...]
    variant: Variant
    private: bool
    license: str | None
