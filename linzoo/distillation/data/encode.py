"""What a pipeline's own encoders make of captions and pictures, and digests that tell those encoders from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from linzoo.distillation.batch import Conditioning
from linzoo.distillation.data.items import fingerprint


@torch.no_grad()
def encode_captions(pipe: Any, captions: Sequence[str], device: torch.device | str) -> Conditioning:
    """What the pipeline conditions its UNet on for each caption, (B, tokens, width) and for SDXL (B, width) pooled."""
    text, _, *pooled = _encode_prompt(pipe, captions, device)
    return Conditioning(text, pooled[0] if pooled else None)


@torch.no_grad()
def encode_unconditional(pipe: Any, device: torch.device | str) -> Conditioning:
    """What the pipeline guides away from when no negative prompt is given, one row.

    That is the empty caption, or zeros where an SDXL pipeline's ``force_zeros_for_empty_prompt`` says so.
    """
    _, text, *pooled = _encode_prompt(pipe, [""], device)
    return Conditioning(text, pooled[1] if pooled else None)


@torch.no_grad()
def encode_pictures(vae: Any, pictures: Tensor, device: torch.device | str) -> Tensor:
    """Latents as the UNet knows them, float32, of pictures (B, 3, height, width) in uint8.

    The mean of the encoder's distribution, not a sample of it: its spread is far below the smallest noise that is
    added in training, and the same picture has the same latents always. Runs in float32 whatever the autoencoder is
    kept in: SDXL's overflows float16, and bfloat16 is coarser than the pictures are.
    """
    with _in_float32(vae):
        pixels = pictures.to(device=device, dtype=torch.float32) / 127.5 - 1
        latents: Tensor = vae.encode(pixels).latent_dist.mode().float()
    config = vae.config
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        latents = (latents - _per_channel(mean, latents)) / _per_channel(std, latents)
    return latents * float(config.scaling_factor)


def text_identity(pipe: Any) -> dict[str, Any]:
    """Tells text encoders, tokenizers and what is done with an empty prompt from others."""
    found: dict[str, Any] = {"pipeline": type(pipe).__name__}
    for suffix in ("", "_2"):
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if encoder is not None:
            found[f"text_encoder{suffix}"] = weights_digest(encoder)
            found[f"tokenizer{suffix}"] = _tokenizer_digest(getattr(pipe, f"tokenizer{suffix}"))
    return found | {"zeros": bool(pipe.config.get("force_zeros_for_empty_prompt", False))}


def scheduler_identity(pipe: Any) -> list[Any]:
    """Tells the sampler and its settings from others."""
    scheduler = pipe.scheduler  # diffusers notes of its file, under names with _, in an order that changes
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return [type(scheduler).__name__, settings]


def weights_digest(module: nn.Module) -> str:
    """A digest of all a module's tensors with their names, shapes and types."""
    tensors = module.state_dict()
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        return fingerprint(*pool.map(_describe, tensors.items()))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers from a line for each caption that is longer than its encoder reads, or for each cast."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _encode_prompt(pipe: Any, captions: Sequence[str], device: torch.device | str) -> tuple[Tensor, ...]:
    with quiet():
        encoded: tuple[Tensor, ...] = pipe.encode_prompt(
            prompt=list(captions), device=device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    return encoded


@contextmanager
def _in_float32(vae: Any) -> Iterator[None]:
    before = vae.dtype
    with quiet():
        vae.to(torch.float32)
        try:
            yield
        finally:
            vae.to(before)


def _per_channel(values: Sequence[float], latents: Tensor) -> Tensor:
    return torch.tensor(values, device=latents.device).view(1, -1, 1, 1)


def _describe(named: tuple[str, Tensor]) -> tuple[str, str, list[int], str]:
    name, tensor = named
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return name, str(tensor.dtype), list(tensor.shape), hashlib.sha256(content.data).hexdigest()


def _tokenizer_digest(tokenizer: Any) -> str:
    """Of the tokenizer's whole definition, without the padding and truncation that its last call left in it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    definition = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for state in ("padding", "truncation"):
        definition.pop(state, None)
    return fingerprint(definition, tokenizer.model_max_length)
