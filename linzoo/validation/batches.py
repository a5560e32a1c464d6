"""Latents with their captions, as the samples that a distillation's evaluation measures on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from linzoo.distillation.batch import Batch, Conditioning
from linzoo.distillation.data.encode import encode_captions, encode_unconditional


def make_batches(
    pipe: Any, latents: Tensor, captions: Sequence[str], at_once: int, device: torch.device | str
) -> list[Batch]:
    """Encode captions and lay them beside their latents.

    Args:
        pipe: the teacher's pipeline.
        latents: clean latents, (N, 4, height / 8, width / 8).
        captions: N of them.
        at_once: samples of a batch.
        device: where the batches are wanted.
    """
    time_ids = _time_ids(pipe, latents, device)
    empty = _plain(encode_unconditional(pipe, device), time_ids)
    batches = []
    for start in range(0, len(latents), at_once):
        part = slice(start, min(start + at_once, len(latents)))
        conditioning = _plain(encode_captions(pipe, captions[part], device), time_ids)
        rows = torch.zeros(part.stop - start, dtype=torch.long, device=device)
        batches.append(Batch(latents[part].to(device), conditioning, empty.rows(rows)))
    return batches


def _plain(conditioning: Conditioning, time_ids: Tensor) -> Conditioning:
    """In float32, and with SDXL's time ids where there is a pooled text."""
    text = conditioning.text.float()
    if conditioning.pooled is None:
        return Conditioning(text)
    return Conditioning(text, conditioning.pooled.float(), time_ids.expand(len(text), -1))


def _time_ids(pipe: Any, latents: Tensor, device: torch.device | str) -> Tensor:
    """Original size, no crop, target size, as SDXL's pipeline has them for pictures that it draws, (1, 6)."""
    height, width = (int(side) * pipe.vae_scale_factor for side in latents.shape[-2:])
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device)
