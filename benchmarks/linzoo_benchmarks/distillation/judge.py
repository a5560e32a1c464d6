"""How near a student is to its teacher, measured alike for every arm: the same samples, noise, prompts and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linzoo.attention.linfusion import LinFusion
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.noise import Noise
from linzoo.distillation.student import Student
from linzoo.generate.compare import Settings, draw
from linzoo_benchmarks.distillation.arms import SAMPLES
from linzoo_benchmarks.distillation.models import prompts
from linzoo_benchmarks.distillation.rows import Quality

if TYPE_CHECKING:
    from PIL.Image import Image

    from linzoo.distillation.data.latents import LatentData

SEED = 12345
GUIDANCE = 7.5
PICTURES = Settings(steps=20, guidance=4.0, seed=SEED, batch=16)
"""mini overshoots at Stable Diffusion's usual guidance."""


class Judge:
    """Holds what is the same for all students of a teacher.

    Args:
        pipe: the teacher's pipeline.
        data: whose held-out samples are measured on.
    """

    def __init__(self, pipe: Any, data: LatentData) -> None:
        self._pipe = pipe
        self._noise = Noise(pipe.scheduler)
        self._batches = list(data.held_out_batches(SAMPLES, 16))
        self._drawn = draw(pipe, prompts(), PICTURES)

    def judge(self, checkpoint: Path) -> Mapping[str, Any]:
        """The fields of :class:`Quality` for a LinFusion checkpoint of this teacher."""
        student = Student(self._pipe.unet, LinFusion.from_pretrained(checkpoint))
        try:
            evaluator = Evaluator(student, self._noise, self._batches, (GUIDANCE,), SEED)
            found = evaluator.evaluate()
            drawn = draw(self._pipe, prompts(), PICTURES)
        finally:
            student.close()
        quality = Quality(
            kd=found.kd,
            guided=found.guided[GUIDANCE],
            features=sum(found.features.values()) / len(found.features),
            psnr=_psnr(drawn, self._drawn),
        )
        return asdict(quality)


def _psnr(ones: Sequence[Image], others: Sequence[Image]) -> float:
    """Mean over pairs of pictures, in dB; pictures that differ by less than rounding count as 60 dB."""
    found = []
    for one, other in zip(ones, others, strict=True):
        difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
        found.append(min(10 * math.log10(255**2 / max(float(np.square(difference).mean()), 1e-9)), 60.0))
    return sum(found) / len(found)
