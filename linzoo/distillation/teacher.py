"""The teacher's pipeline for a run: in the recipe's precision, its encoders on the device only while they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from linzoo.distillation.recipe import Recipe
from linzoo.generate.teacher import open_pipeline

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.registry import Registry

_ENCODERS = ("vae", "text_encoder", "text_encoder_2")


def open_for_training(found: Inspection, registry: Registry, recipe: Recipe, device: torch.device) -> Any:
    """Build the teacher's pipeline; see :func:`linzoo.generate.teacher.open_pipeline`."""
    pipe = open_pipeline(found, registry, device=str(device), dtype=recipe.precision)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def encoders_to(pipe: Any, device: torch.device) -> None:
    """Move VAE and text encoders; the UNet stays where it is."""
    for name in _ENCODERS:
        module = getattr(pipe, name, None)
        if module is not None:
            module.to(device)


@contextmanager
def encoders_on(pipe: Any, device: torch.device) -> Iterator[None]:
    """Have VAE and text encoders on the device for the length of a ``with`` block, and in host memory afterwards."""
    encoders_to(pipe, device)
    try:
        yield
    finally:
        encoders_to(pipe, torch.device("cpu"))
