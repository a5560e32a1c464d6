"""A student at its best without training, for conversions: the teacher is opened, draws samples, and is calibrated to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linzoo.attention.linfusion import LinFusion
from linzoo.checkpoints.lock import plain
from linzoo.distillation.calibrate import calibrate
from linzoo.distillation.data.latents import LatentData
from linzoo.distillation.data.prepare import prepare_data
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.noise import Noise
from linzoo.distillation.progress import Advance, Progress, counting
from linzoo.distillation.recipe import Calibrate, Recipe
from linzoo.distillation.student import Student
from linzoo.distillation.teacher import encoders_to
from linzoo.generate.teacher import open_pipeline
from linzoo.init.recipe import Follow, InitRequest


def calibrated_weights(
    request: InitRequest, recipe: Recipe, start: Mapping[str, np.ndarray], follow: Follow
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Calibrate a student as a distill recipe says.

    Args:
        request: of the conversion.
        recipe: with its settings for data and calibration.
        start: the weights that the student starts from, by tensor name, float32.
        follow: follows the work.

    Returns:
        The weights in float32, and what was measured.

    Raises:
        DataError: the recipe's data cannot be read or is too little.
        CheckpointError: the teacher is no complete pipeline, or its samples cannot be kept in the cache.
    """
    settings = recipe.calibrate
    assert settings is not None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "float32" if device == "cpu" else recipe.precision
    pipe = open_pipeline(request.inspection, request.registry, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    progress = _Followed(follow)
    with counting(progress, "Drawing samples") as told:
        data = prepare_data(
            recipe,
            pipe,
            variant=request.variant.value,
            device=device,
            progress=told,
            limit=settings.samples + recipe.data.held_out,
        )
    encoders_to(pipe, torch.device("cpu"))
    student = Student(pipe.unet, _linfusion(request, start))
    held_out = data.held_out_batches(recipe.validation.samples, settings.micro_batch, device)
    evaluator = Evaluator(student, Noise(pipe.scheduler), held_out, seed=request.seed)
    batches = list(_batches(data, settings, request.seed, device))
    calibration = calibrate(student, batches, evaluator, settings, request.seed, progress)
    measured = {
        "kd_before": calibration.kd["start"],
        "kd_after": min(calibration.kd.values()),
        "ridge": calibration.ridge,
        "sharpness": plain(calibration.sharpness),
        "data": data.digest,
        "torch": torch.__version__,
    }
    return student.export()[1], measured


class _Followed(Progress):
    """Passes progress on to a conversion."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Follow a piece of work."""
        with self._follow(title, total) as advance:
            advance(done)
            yield lambda count, figures: advance(count)


def _linfusion(request: InitRequest, start: Mapping[str, np.ndarray]) -> LinFusion:
    entries = [module.entry.to_json() for module in request.modules]
    with torch.device("meta"):
        linfusion: LinFusion = LinFusion(modules_list=entries, registry=request.registry)
    weights = {name: torch.from_numpy(array) for name, array in start.items()}
    linfusion.load_state_dict(weights, assign=True)
    return linfusion


def _batches(data: LatentData, settings: Calibrate, seed: int, device: str) -> Iterator[Any]:
    indices = data.indices(seed, "calibrate", 0, settings.samples)
    for first in range(0, len(indices), settings.micro_batch):
        yield data.load(indices[first : first + settings.micro_batch], device)
