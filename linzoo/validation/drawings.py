"""The same prompts drawn by teacher and student from the same noise, kept on disk: pictures and their latents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from linzoo.checkpoints.atomic import require_space
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.generate.compare import Settings, draw_each
from linzoo.generate.output import write_image
from linzoo.validation.chunks import Chunks
from linzoo.validation.errors import ValidationError

Who = Literal["teacher", "student"]
BOTH: tuple[Who, ...] = ("teacher", "student")

FACTORS = (1.0, 1.5, 2.0, 4.0)
"""What the sides of the sizes are that ``resolution`` looks at, in multiples of the size that is validated."""
LARGE = 2
"""Pictures that it looks at of each size: at four times the side one takes sixteen times as long."""

_END = b"IEND\xaeB`\x82"
"""The last bytes of every PNG: its last chunk, which is empty, with the checksum."""
_NEEDED = 3.3
"""Bytes of disk a pixel, at most: a PNG of 24 bits, and latents of four numbers for 64 pixels."""


@dataclass(frozen=True)
class Drawings:
    """What one of the two has drawn.

    Attributes:
        who: the teacher or the student.
        key: tells the model and how it drew from any other; in the name of its folder, so that nothing is ever mixed.
        folder: of the report.
        prompts: what is drawn.
        settings: how; its size is given.
    """

    who: Who
    key: str
    folder: Path
    prompts: tuple[str, ...]
    settings: Settings

    def draw(self, pipe: Any, progress: Progress, processes: Processes | None = None) -> None:
        """Draw what is missing, every process its part; without processes, alone.

        Raises:
            CheckpointError: the folder cannot be written, or the disk has too little room.
            LinzooError: there is not enough memory.
        """
        width, height = self.settings.size or (0, 0)
        missing = sum(not self._has(index) for index in range(len(self.prompts)))
        require_space(self.folder, int(missing * width * height * _NEEDED))
        self.chunks.fill(
            partial(self._draw, pipe),
            f"{self.who} draws",
            progress,
            processes,
            lambda items: all(map(self._has, items)),
        )

    def _draw(self, pipe: Any, items: range) -> dict[str, Tensor]:
        settings = replace(self.settings, seed=self.settings.seed + items.start)
        latents = []
        drawn = draw_each(pipe, self.prompts[items.start : items.stop], settings)
        for index, (image, latent) in zip(items, drawn, strict=True):
            write_image(self.folder / self.picture(index), image)
            latents.append(latent.float())
        return {"latents": torch.stack(latents)}

    def _has(self, index: int) -> bool:
        return _is_whole(self.folder / self.picture(index))

    def picture(self, index: int) -> str:
        """Where a picture is, relative to the report's folder."""
        return f"{self._place}/{index:06d}.png"

    def latents(self, most: int | None = None) -> Tensor:
        """The latents of all pictures, or of the first ``most``, float32 (N, 4, height / 8, width / 8)."""
        return self.chunks.read("latents", most)

    def pixels(self, items: Sequence[int]) -> Tensor:
        """Some of the pictures, uint8 (N, 3, height, width)."""
        return torch.stack([read_pixels(self.folder / self.picture(index)) for index in items])

    @property
    def _place(self) -> str:
        return f"pictures/{self.who}-{self.key[:12]}"

    @property
    def chunks(self) -> Chunks:
        """The latents on disk."""
        return Chunks(self.folder / self._place, len(self.prompts), ["latents"])


def _is_whole(path: Path) -> bool:
    """Whether a PNG is there up to its last chunk."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_END), os.SEEK_END)
            return file.read() == _END
    except OSError:
        return False


def read_pixels(path: Path) -> Tensor:
    """A picture, uint8 (3, height, width).

    Raises:
        ValidationError: it cannot be read, or is none.
    """
    try:
        with Image.open(path) as image:
            array = np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise ValidationError(f"{path}: is no picture") from error
    except OSError as error:
        raise ValidationError(f"{path}: cannot be read: {error.strerror or error}") from error
    return torch.from_numpy(array).permute(2, 0, 1)
