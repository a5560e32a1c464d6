"""How alike the two pictures of each prompt are, kept on disk as it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from linzoo.distillation.data.items import fingerprint
from linzoo.validation.chunks import Chunks
from linzoo.validation.drawings import BOTH
from linzoo.validation.metrics.latents import cosine
from linzoo.validation.metrics.pictures import psnr, ssim

if TYPE_CHECKING:
    from linzoo.validation.subject import Subject


@dataclass(frozen=True)
class Pairs:
    """What teacher and student drew of each prompt, compared.

    Attributes:
        subject: whose pictures they are.
    """

    subject: Subject

    def compare(self) -> None:
        """Compare what was not compared yet, every process its part."""
        self._chunks.fill(self._compare, "comparing pictures", self.subject.progress, self.subject.processes)

    def read(self, name: str) -> Tensor:
        """``cosine`` of the latents, ``psnr`` or ``ssim`` of the pictures, float64 (N,)."""
        return self._chunks.read(name)

    def _compare(self, items: range) -> dict[str, Tensor]:
        teacher, student = (self.subject.drawings(who) for who in BOTH)
        latents = [each.chunks.load(items)["latents"] for each in (student, teacher)]
        pixels = [each.pixels(items).to(self.subject.device) for each in (student, teacher)]
        return {"cosine": cosine(*latents), "psnr": psnr(*pixels), "ssim": ssim(*pixels)}

    @property
    def _chunks(self) -> Chunks:
        key = fingerprint(*(self.subject.drawings(who).key for who in BOTH))
        place = self.subject.folder / "seen" / f"pairs-{key[:12]}"
        return Chunks(place, len(self.subject.settings.prompts), ["cosine", "psnr", "ssim"])
