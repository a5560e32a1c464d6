"""Tiny students and batches of random numbers for the tests of distillation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tiny import write_linfusion
from torch import nn

from linzoo.attention.handle import read_linfusion
from linzoo.attention.linfusion import LinFusion
from linzoo.distillation.batch import Batch, Conditioning, Draws
from linzoo.distillation.recipe import Recipe
from linzoo.distillation.student import Student


def linfusion_of(unet: nn.Module, *, of_teacher: bool = False) -> LinFusion:
    """Linear attentions with random weights; with ``of_teacher`` those of f and g alone are random."""
    with tempfile.TemporaryDirectory() as folder:
        return read_linfusion(write_linfusion(unet, Path(folder) / "linfusion", of_teacher=of_teacher))


def student_of(unet: nn.Module, *, of_teacher: bool = False) -> Student:
    """A student with the UNet's own dtype, or wider."""
    return Student(unet, linfusion_of(unet, of_teacher=of_teacher))


def sample(unet: nn.Module, count: int = 2, *, seed: int = 1, size: int = 8) -> Batch:
    """A batch that the UNet can be given, in float32, or in float64 for such a UNet."""
    random = torch.Generator().manual_seed(seed)
    dtype = torch.promote_types(unet.dtype, torch.float32)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    def conditioning() -> Conditioning:
        text = normal(count, 5, unet.config.cross_attention_dim)
        if unet.config.addition_embed_type is None:
            return Conditioning(text)
        pooled = normal(count, 32)
        return Conditioning(text, pooled, torch.tensor([[16.0, 16, 0, 0, 16, 16]]).repeat(count, 1).to(dtype))

    return Batch(normal(count, 4, size, size), conditioning(), conditioning())


def recipe_of(**changes: object) -> Recipe:
    """A recipe of one stage or several, ``align`` and ``distill``; ``caption_dropout`` is 0 unless told."""
    dropout = changes.pop("caption_dropout", 0.0)
    data = {"source": "prompts.txt", "caption_dropout": dropout}
    return Recipe.model_validate(
        {"schema_version": 1, "name": "test", "variant": "sd15", "data": data} | changes
    )


def draws_of(count: int, *, stage: str = "distill", step: int = 0, first: int = 0) -> Draws:
    """The random numbers of ``count`` places of a batch."""
    return Draws(0, stage, step, range(first, first + count))


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some samples of a batch."""
    return Batch(batch.latents[rows], batch.conditioning.rows(rows), batch.unconditional.rows(rows))


def gradients(student: Student) -> dict[str, torch.Tensor]:
    """The gradients of the trained weights by name."""
    return {name: each.grad for name, each in student.parameters.items() if each.grad is not None}
