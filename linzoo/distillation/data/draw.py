"""The teacher draws latents with its own sampler; each can be drawn again from its prompt, seed and guidance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from linzoo.distillation.data.cache import Cache, Record, halved
from linzoo.distillation.data.encode import quiet, scheduler_identity, text_identity, weights_digest
from linzoo.distillation.data.items import Item, Size, Source, fingerprint
from linzoo.distillation.data.maker import View, stored_bytes
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Sampling

_LEVELS = 9


class TeacherDraws:
    """Draws latents of prompts.

    The seed of a drawing is a hash of prompt, number and size, and so is its guidance: one of nine scales that cut the
    recipe's range evenly, so that prompts with one scale can be drawn together.

    Args:
        pipe: the teacher, with its own attention.
        sizes: every prompt is drawn at each.
        sampling: steps and range of guidance.
    """

    def __init__(self, pipe: Any, sizes: Sequence[Size], sampling: Sampling) -> None:
        self._pipe = pipe
        self._sizes = sizes
        self._sampling = sampling
        self.choice = list(sizes)
        self.about = {
            "made by": "the teacher's sampler",
            "unet": weights_digest(pipe.unet),
            "text": text_identity(pipe),
            "scheduler": scheduler_identity(pipe),
            "sampling": sampling.model_dump(mode="json", exclude={"per_prompt"}),
        }

    def bytes_missing(self, source: Source, cache: Cache) -> int:
        """See :class:`linzoo.distillation.data.maker.Maker`."""
        views = (view for _, item in source.items(0, 1) for view in self.views(item)[1])
        return sum(stored_bytes(self._pipe, view.size) for view in views if view.key not in cache)

    def views(self, item: Item) -> tuple[str, list[View]]:
        """See :class:`linzoo.distillation.data.maker.Maker`."""
        views = []
        low, high = self._sampling.guidance
        for base, size in enumerate(self._sizes):
            key = fingerprint(*_identity(item), size)
            guidance = low + (high - low) * (int(key[8:16], 16) % _LEVELS) / (_LEVELS - 1)
            details = {"prompt": item.caption, "seed": int(key[:8], 16), "guidance": guidance}
            views.append(View(key, base, size, (size, guidance), item.name, details))
        return fingerprint(item.caption), views

    def ready(self, view: View) -> View:
        """Nothing is to be read."""
        return view

    def make(self, views: Sequence[View]) -> list[Record]:
        """Draw; see :class:`linzoo.distillation.data.maker.Maker`.

        Raises:
            DataError: a drawing has values that are not finite.
        """
        width, height = views[0].size
        with quiet(), _fresh_scheduler(self._pipe):
            self._pipe.set_progress_bar_config(disable=True)
            latents = self._pipe(
                prompt=[view.details["prompt"] for view in views],
                width=width,
                height=height,
                num_inference_steps=self._sampling.steps,
                guidance_scale=views[0].details["guidance"],
                generator=[torch.Generator().manual_seed(view.details["seed"]) for view in views],
                output_type="latent",
            ).images
        return [self._record(view, each) for view, each in zip(views, latents.float().cpu(), strict=True)]

    def _record(self, view: View, latents: torch.Tensor) -> Record:
        if not bool(torch.isfinite(latents).all()):
            raise DataError(
                f"the teacher drew values that are not finite for the prompt {view.details['prompt']!r} (seed "
                f"{view.details['seed']}, {self._pipe.unet.dtype}); use precision float32, or another teacher"
            )
        width, height = view.size
        info = {**view.details, "size": [width, height], "time_ids": [height, width, 0, 0, height, width]}
        return Record(view.key, {"latents": halved(latents)}, info)


def _identity(item: Item) -> tuple[str, ...]:
    """What tells an item from all others: its prompt, and its number where that is not the first."""
    return (item.caption, str(item.number)) if item.number else (item.caption,)


@contextmanager
def _fresh_scheduler(pipe: Any) -> Iterator[None]:
    """Draw with a copy of the pipeline's scheduler: what it remembers of a drawing goes nowhere else."""
    scheduler = pipe.scheduler
    pipe.scheduler = type(scheduler).from_config(scheduler.config)
    try:
        yield
    finally:
        pipe.scheduler = scheduler
