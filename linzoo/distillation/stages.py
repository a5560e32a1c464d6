"""The stages of a run, in their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from linzoo.distillation.align import AlignStage
from linzoo.distillation.distill import DistillStage
from linzoo.distillation.noise import Noise
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.student import Student
from linzoo.distillation.trainer import Objective

ORDER = ("calibrate", "align", "distill")
OBJECTIVES: Mapping[str, Callable[[Student, Noise, Recipe], Objective]] = {
    "align": AlignStage,
    "distill": DistillStage,
}
"""What makes the objective of each trained stage."""
