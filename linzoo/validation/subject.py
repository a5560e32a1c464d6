"""What is validated: a checkpoint and its teacher, and what all checks share of them, made when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from torch import Tensor

from linzoo._version import __version__
from linzoo.attention.handle import Handle, load, read_linfusion
from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mount import unmount
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.lock import files_read
from linzoo.checkpoints.source import Checkpoint
from linzoo.distillation.batch import Batch
from linzoo.distillation.data.encode import scheduler_identity, text_identity, weights_digest
from linzoo.distillation.data.items import fingerprint
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.noise import Noise
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.distillation.student import Student
from linzoo.generate.compare import Settings as DrawSettings
from linzoo.generate.teacher import open_pipeline
from linzoo.plugin import Variant
from linzoo.validation.batches import make_batches
from linzoo.validation.drawings import LARGE, Drawings, Who
from linzoo.validation.pairs import Pairs
from linzoo.validation.settings import Settings

if TYPE_CHECKING:
    from linzoo.plugin.requests import DType
    from linzoo.registry import Registered, Registry
    from linzoo.validation.sights import Sights

_FORMAT = 1
"""Of what is kept on disk; another number, and everything is drawn anew."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint under validation; a ``CheckRequest``, and more for linzoo's own checks.

    Attributes:
        opened: the LinFusion checkpoint.
        config: its ``config.json``.
        lock: its lock file; None where it has none.
        found: what the teacher is.
        registered: the variant, and who provides it.
        settings: how it is validated.
        folder: of the report.
        dtype: precision of the teacher; None for float32 on a CPU and float16 elsewhere.
        processes: those that validate together.
        registry: where ids are looked up.
        progress: what people are told.
    """

    opened: Checkpoint
    config: LinFusionConfig
    lock: Mapping[str, Any] | None
    found: Inspection
    registered: Registered[Variant]
    settings: Settings
    folder: Path
    dtype: DType | None
    processes: Processes
    registry: Registry
    progress: Progress

    @property
    def checkpoint(self) -> Path:
        """The folder with the LinFusion checkpoint."""
        return self.opened.path

    @property
    def teacher(self) -> str:
        """The SOURCE of the teacher."""
        return self.found.checkpoint.spec

    @property
    def variant(self) -> Variant:
        """The variant that the teacher is."""
        return self.registered.value

    @property
    def prediction_type(self) -> str:
        """What the teacher predicts."""
        return self.found.require()[1]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels that pictures are drawn at."""
        return self.settings.size

    @property
    def seed(self) -> int:
        """Of every random number."""
        return self.settings.seed

    @property
    def prompts(self) -> tuple[str, ...]:
        """What both draw."""
        return self.settings.prompts

    @property
    def device(self) -> str:
        """The torch device to compute on."""
        return str(self.processes.device)

    @cached_property
    def pipe(self) -> Any:
        """The teacher's pipeline.

        Raises:
            LinzooError: it is no complete pipeline, or does not load.
        """
        with self.progress.task("loading the teacher", 1) as told:
            pipe = open_pipeline(self.found, self.registry, device=self.device, dtype=self.dtype)
            told(1, {})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @contextmanager
    def mounted(self) -> Iterator[Handle]:
        """Mount the checkpoint in the teacher's UNet for the length of a ``with`` block, as people do who draw with it."""
        handle = load(self.pipe, self.checkpoint, registry=self.registry)
        try:
            yield handle
        finally:
            handle.unload()

    def restore(self) -> None:
        """Take out what a plugin's check may have left mounted in the teacher's UNet."""
        if "pipe" in vars(self):
            unmount(self.pipe.unet)

    @contextmanager
    def student(self) -> Iterator[Student]:
        """Mount it beside the teacher's own attention, so that both are at hand layer by layer."""
        student = Student(self.pipe.unet, self.weights())
        try:
            yield student
        finally:
            student.close()

    def weights(self) -> LinFusion:
        """The checkpoint, read anew."""
        return read_linfusion(self.checkpoint, registry=self.registry)

    @cached_property
    def noise(self) -> Noise:
        """The diffusion process of the teacher."""
        return Noise(self.pipe.scheduler)

    def evaluator(self, student: Student, samples: int) -> Evaluator:
        """Measures the student on what the teacher drew, or on the first ``samples`` of it."""
        batches = self.batches(self.drawings("teacher").latents(samples))
        return Evaluator(student, self.noise, batches, self.settings.scales, self.seed)

    def batches(self, latents: Tensor) -> list[Batch]:
        """Latents of the first prompts, (N, 4, height / 8, width / 8), with their captions."""
        captions = self.settings.prompts[: len(latents)]
        return make_batches(self.pipe, latents, captions, self.settings.batch, self.device)

    def drawings(self, who: Who, factor: float = 1.0) -> Drawings:
        """What the teacher or the student draws; the first few prompts alone at ``factor`` times the sides."""
        settings = self.settings
        prompts = settings.prompts if factor == 1 else settings.prompts[:LARGE]
        size = settings.size if factor == 1 else scaled_size(settings.size, factor)
        key = fingerprint(
            _FORMAT,
            self._teacher_identity,
            self._checkpoint_digests if who == "student" else {},
            [self.variant.id, self.prediction_type, list(size)],
            [settings.steps, settings.guidance, settings.seed, list(prompts)],
        )
        drawing = DrawSettings(
            size=size,
            steps=settings.steps,
            guidance=settings.guidance,
            seed=settings.seed,
            batch=settings.batch if factor == 1 else 1,
        )
        return Drawings(who, key, self.folder, prompts, drawing)

    def pictures(self, who: Who) -> list[Path]:
        """The files of what the teacher or the student has drawn, in the order of the prompts."""
        drawings = self.drawings(who)
        return [self.folder / drawings.picture(index) for index in range(len(self.prompts))]

    @property
    def pairs(self) -> Pairs:
        """How alike the two pictures of each prompt are."""
        return Pairs(self)

    @cached_property
    def sights(self) -> Sights:
        """The encoders, and what they see in the drawn pictures."""
        from linzoo.validation.sights import choose_sights

        return choose_sights(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know besides the measures."""
        return (*self.settings.notes, *(self.sights.notes if "sights" in vars(self) else ()))

    @property
    def precision(self) -> str | None:
        """The dtype that the teacher computes in; None where it was not loaded."""
        return str(self.pipe.unet.dtype).removeprefix("torch.") if "pipe" in vars(self) else None

    @cached_property
    def _teacher_identity(self) -> dict[str, Any]:
        """All that has a part in a picture; the UNet by its files, since the checkpoint may be mounted in it now."""
        vae = self.pipe.vae
        return {
            "versions": [__version__, diffusers.__version__, torch.__version__],
            "unet": [_digests(self.found.checkpoint), str(self.pipe.unet.dtype)],
            "text": text_identity(self.pipe),
            "vae": [weights_digest(vae), {name: vae.config[name] for name in vae.config if name[0] != "_"}],
            "scheduler": scheduler_identity(self.pipe),
        }

    @cached_property
    def _checkpoint_digests(self) -> dict[str, Any]:
        """The checkpoint's files, and who provides the mixers that its modules are computed by."""
        mixers = {self.registry.mixers[module.mixer] for module in self.config.modules}
        return {
            **_digests(self.opened),
            "mixers": sorted(f"{each.full_id} {each.plugin.label}" for each in mixers),
        }


def scaled_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """The nearest size that a model can draw: sides of 64, as its UNet halves the latents up to three times."""
    width, height = (max(64, round(factor * side / 64) * 64) for side in size)
    return width, height


def _digests(checkpoint: Checkpoint) -> dict[str, Any]:
    return {name: asdict(digest(path)) for name, path in files_read(checkpoint).items()}
