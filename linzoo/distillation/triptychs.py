"""Pictures on the way: teacher, student and their difference, the same prompts and noise every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.distillation.recipe import Validation
from linzoo.distillation.student import Student
from linzoo.distillation.teacher import encoders_on
from linzoo.generate.compare import Settings, draw
from linzoo.generate.sheet import Card, Sheet

if TYPE_CHECKING:
    from PIL.Image import Image

_COLUMNS = ("teacher (softmax)", "student (linear)", "difference")


class Triptychs:
    """Draws one sheet each time; the teacher's pictures once.

    Args:
        pipe: the pipeline whose UNet the student is.
        student: the student.
        prompts: what is drawn.
        settings: how many of them, in how many steps, at which guidance.
        folder: where the sheets go.
    """

    def __init__(
        self, pipe: Any, student: Student, prompts: Sequence[str], settings: Validation, folder: Path
    ) -> None:
        self._pipe = pipe
        self._student = student
        self._prompts = list(prompts)[: settings.images]
        self._settings = Settings(steps=settings.image_steps, guidance=settings.guidance)
        self._folder = folder
        self._teacher: list[Image] = []

    def draw(self, step: int) -> Path | None:
        """Draw the sheet of a step; None where there is nothing to draw.

        Raises:
            LinzooError: there is not enough memory for a picture.
            CheckpointError: the folder cannot be written.
        """
        if not self._prompts:
            return None
        with encoders_on(self._pipe, self._student.unet.device), self._student.autocast():
            if not self._teacher:
                with self._student.teacher():
                    self._teacher = draw(self._pipe, self._prompts, self._settings)
            students = draw(self._pipe, self._prompts, self._settings)
        path = self._folder / f"step-{step:08d}.png"
        self._sheet(step, students).save(path)
        return path

    def _sheet(self, step: int, students: Sequence[Image]) -> Sheet:
        from PIL import ImageChops

        seeds = self._settings.seeds(len(self._prompts))
        cards = [
            Card(prompt, f"seed {seed}", (teacher, student, ImageChops.difference(teacher, student)))
            for prompt, seed, teacher, student in zip(
                self._prompts, seeds, self._teacher, students, strict=True
            )
        ]
        how = f"{self._settings.steps} steps, guidance {self._settings.guidance:g}, the same noise."
        return Sheet(f"step {step}", how, _COLUMNS, cards)


def prompts_of(captions: Iterable[str]) -> list[str]:
    """Captions, each once, in their order."""
    return [caption for caption in dict.fromkeys(captions) if caption]
