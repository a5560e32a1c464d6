"""What a run leaves: LinFusion checkpoints with lock files, and what it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from linzoo._version import __version__
from linzoo.checkpoints.atomic import new_folder
from linzoo.checkpoints.linfusion import CONFIG_NAME, WEIGHTS_NAME, LinFusionConfig
from linzoo.checkpoints.lock import LOCK_NAME, LOCK_VERSION, describe_files, encode_json
from linzoo.checkpoints.writer import write_file
from linzoo.distillation.planning import RunPlan
from linzoo.distillation.portable import describe_recipe
from linzoo.distillation.student import Student
from linzoo.distillation.tensors import write_tensors


@dataclass(frozen=True)
class DistillResult:
    """What a run came to.

    Attributes:
        out: the folder of the run.
        checkpoint: the LinFusion checkpoint after the last step.
        steps: optimiser steps that were taken.
        measures: of that checkpoint on held-out samples; ``kd`` and more.
        best: step and ``kd`` of the best weights, which are in ``out/best``; None where none were kept.
    """

    out: Path
    checkpoint: Path
    steps: int
    measures: Mapping[str, Any]
    best: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "schema": 1,
            "out": str(self.out),
            "checkpoint": str(self.checkpoint),
            "steps": self.steps,
            "measures": dict(self.measures),
            "best": None if self.best is None else dict(self.best),
        }


@dataclass(frozen=True)
class Export:
    """Writes the student as a LinFusion checkpoint.

    Attributes:
        plan: the run.
        student: as it stands.
        dtype: of the weights on disk: that of the checkpoint that the run began with.
        identity: what the run is made from.
    """

    plan: RunPlan
    student: Student
    dtype: torch.dtype
    identity: Mapping[str, Any]

    def write(self, folder: Path, step: int, measures: Mapping[str, Any]) -> None:
        """Write a folder with ``config.json``, the weights and a lock file; it appears whole, and replaces an older one.

        Raises:
            CheckpointError: the place cannot be written or the disk is full.
        """
        config, tensors = self.student.export(self.dtype)
        with new_folder(folder, replace=True) as made:
            outputs = {
                CONFIG_NAME: write_file(made / CONFIG_NAME, encode_json(config.to_json())),
                WEIGHTS_NAME: write_tensors(made / WEIGHTS_NAME, tensors),
            }
            lock = self._lock(config, tensors, step, measures) | {"outputs": describe_files(outputs)}
            write_file(made / LOCK_NAME, encode_json(lock))

    def _lock(
        self, config: LinFusionConfig, names: Mapping[str, Any], step: int, measures: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The lock file of the checkpoint that the run began with, and what was done to it since."""
        recipe = self.plan.recipe
        before = {module.module_name: index for index, module in enumerate(self.plan.config.modules)}
        places = [before[module.module_name] for module in config.modules]
        how = " + ".join(self.plan.work)
        return {
            **(self.plan.lock or {"detection": {"variant": self.plan.variant.value.id}}),
            "lock_version": LOCK_VERSION,
            "command": "distill",
            "distill": {
                "recipe": describe_recipe(recipe.name, recipe.document),
                "checkpoint": self.identity["checkpoint"],
                "teacher": self.identity["teacher"],
                "data": self.identity["data"],
                "linzoo": __version__,
                "steps": step,
                "measures": dict(measures),
            },
            "tensors": {
                name: {"action": "trained", "sources": [_earlier(name, places)], "how": how}
                for name in sorted(names)
            },
        }


def _earlier(name: str, places: list[int]) -> str:
    """The tensor's name before layers were given back to the teacher and the rest numbered anew."""
    index, _, rest = name.partition(".")
    return f"{places[int(index)]}.{rest}"
