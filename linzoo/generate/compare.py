"""Draw the same prompts from the same noise with a teacher and with its student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from linzoo.errors import LinzooError, UsageError
from linzoo.generate.memory import out_of_memory

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from linzoo.attention.handle import Handle


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How pictures are drawn.

    Attributes:
        size: width and height in pixels, multiples of 8; None for the size that the model was trained at.
        steps: denoising steps.
        guidance: scale of classifier-free guidance; 1 for none.
        negative: what the picture should not show; None for nothing said, which SDXL tells from an empty text.
        seed: the first picture's seed; picture ``i`` gets ``seed + i``.
        batch: pictures drawn at once.

    Raises:
        UsageError: the size is not one that a model can draw.
    """

    size: tuple[int, int] | None = None
    steps: int = 25
    guidance: float = 7.5
    negative: str | None = None
    seed: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        if self.size and any(side < 8 or side % 8 for side in self.size):
            raise UsageError(
                f"A size must be a multiple of 8 in both directions, got {self.size[0]}x{self.size[1]}."
            )

    def seeds(self, count: int) -> list[int]:
        """The seed of each of ``count`` pictures."""
        return [self.seed + index for index in range(count)]


@dataclass(frozen=True)
class Pair:
    """One prompt drawn twice from the same noise."""

    prompt: str
    seed: int
    teacher: Image = field(repr=False)
    student: Image = field(repr=False)


def draw(
    pipe: Any, prompts: Sequence[str], settings: Settings, on_step: Callable[[int], None] = lambda count: None
) -> list[Image]:
    """Draw one picture for each prompt; see :func:`draw_each`."""
    return [image for image, _ in draw_each(pipe, prompts, settings, on_step)]


def draw_each(
    pipe: Any, prompts: Sequence[str], settings: Settings, on_step: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[Image, Tensor]]:
    """Draw one picture for each prompt; the noise of a picture depends on its seed alone, not on the batch.

    Args:
        pipe: a text-to-image pipeline of diffusers.
        prompts: what to draw.
        settings: how.
        on_step: called after each denoising step with the number of pictures that it brought forward.

    Yields:
        Each picture, and the latents, (4, height / 8, width / 8) as the UNet knows them, that it was decoded from.

    Raises:
        LinzooError: there is not enough memory for pictures of this size.
    """
    import torch

    width, height = settings.size or (None, None)
    pipe.set_progress_bar_config(disable=True)
    seeds = settings.seeds(len(prompts))
    for start in range(0, len(prompts), settings.batch):
        batch = list(prompts[start : start + settings.batch])
        steps = _Steps(on_step, len(batch))
        with _explain_memory(pipe, settings):
            images = pipe(
                prompt=batch,
                negative_prompt=None if settings.negative is None else [settings.negative] * len(batch),
                width=width,
                height=height,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                generator=[
                    torch.Generator("cpu").manual_seed(seed) for seed in seeds[start : start + len(batch)]
                ],
                callback_on_step_end=steps,
            ).images
        yield from zip(images, steps.latents, strict=True)


def compare(
    pipe: Any,
    handle: Handle,
    prompts: Sequence[str],
    settings: Settings,
    on_step: Callable[[int], None] = lambda count: None,
) -> list[Pair]:
    """Draw each prompt with the teacher and with the student that ``handle`` has mounted; see :func:`draw`."""
    with handle.disabled():
        teacher = draw(pipe, prompts, settings, on_step)
    student = draw(pipe, prompts, settings, on_step)
    seeds = settings.seeds(len(prompts))
    return [Pair(*each) for each in zip(prompts, seeds, teacher, student, strict=True)]


@contextmanager
def _explain_memory(pipe: Any, settings: Settings) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        what = "{}x{} pixels".format(*settings.size) if settings.size else "the model's own size"
        raise LinzooError(
            f"Not enough memory on {pipe.device} to draw {settings.batch} at a time at {what}; choose a smaller size."
        ) from error


class _Steps:
    """What a pipeline calls after each step; it counts them and keeps the latents of the last."""

    latents: Tensor

    def __init__(self, on_step: Callable[[int], None], pictures: int) -> None:
        self._on_step = on_step
        self._pictures = pictures

    def __call__(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        self.latents = values["latents"]
        self._on_step(self._pictures)
        return values
