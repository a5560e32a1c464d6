"""Teachers for the experiments, and latents that they draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from linzoo.checkpoints.detection import inspect
from linzoo.plugin import Resource, TeacherRequest
from linzoo.registry import Registry, build_registry

PROMPTS = Resource("linzoo_mini", "prompts.json")


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Everything that is installed."""
    return build_registry()


def open_pipeline(source: str) -> Any:
    """The pipeline of a teacher in float32 on the CPU, silent and without gradients."""
    found = inspect(source, registry=registry())
    variant, prediction_type = found.require()
    request = TeacherRequest(
        source=found.checkpoint.spec,
        path=found.checkpoint.path,
        variant=variant,
        prediction_type=prediction_type,
    )
    pipe: Any = registry().load_teacher(request).pipeline
    pipe.set_progress_bar_config(disable=True)
    for network in (pipe.unet, pipe.vae, pipe.text_encoder):
        network.requires_grad_(False)
    return pipe


def prompts() -> list[str]:
    """The sixteen prompts that mini is shown with."""
    found: list[str] = json.loads(PROMPTS.locate().read_text(encoding="utf-8"))
    return found


def encode(pipe: Any, texts: Sequence[str]) -> Tensor:
    """Encoder hidden states, (B, tokens, width), of a pipeline with one text encoder."""
    embeddings: Tensor = pipe.encode_prompt(list(texts), pipe.device, 1, False)[0]
    return embeddings


def draw_latents(
    pipe: Any,
    texts: Sequence[str],
    size: tuple[int, int],
    seed: int,
    *,
    steps: int = 12,
    guidance: float = 4.0,
) -> Tensor:
    """Latents that the teacher draws for the texts at (width, height) pixels."""
    width, height = size
    latents: Tensor = pipe(
        list(texts),
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    return latents
