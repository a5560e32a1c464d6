"""Sample sheets: a grid of pictures drawn by a pipeline, with the prompt under each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

from .files import replacing
from .progress import track

STEPS = 30
GUIDANCE = 3.0
_LABEL = 14
_TOGETHER = 16


def draw(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], size: int = 128
) -> list[Image.Image]:
    """Return one picture a prompt, `size` pixels square; the same seed gives the same start noise."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    starts = range(0, len(prompts), _TOGETHER)
    for start in track(starts, "draw", total=len(starts)):
        chosen = slice(start, start + _TOGETHER)
        pictures += pipeline(
            list(prompts[chosen]),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            height=size,
            width=size,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[chosen]],
        ).images
    return pictures


def save_sheet(path: Path, pictures: Sequence[Image.Image], labels: Sequence[str], columns: int) -> None:
    """Write the pictures as one PNG grid of 256 colours, each picture above its label."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + _LABEL)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = place % columns * width, place // columns * (height + _LABEL)
        sheet.paste(picture, (left, top))
        pen.text((left + 3, top + height + 1), label, fill="black", font_size=10)
    with replacing(path) as partial:
        sheet.quantize(256, dither=Image.Dither.NONE).save(partial, format="PNG", optimize=True)
