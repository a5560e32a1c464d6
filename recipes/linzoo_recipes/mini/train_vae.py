"""Stage 1: the autoencoder, on crops and whole pictures; then the latents of all pictures, once."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss

from . import models
from .files import replacing, write_json
from .loop import BatchLoss, Plan, train
from .progress import track
from .render import Pictures

PLAN = Plan(steps=4600, lr=2e-3, warmup=100, ema=0.998)
CROP, CROPS, WHOLES = 64, 8, 2
EDGE_WEIGHT = 0.5
KL_WEIGHT = 2e-3


def train_vae(pictures: Pictures, folder: Path, device: torch.device, plan: Plan = PLAN) -> AutoencoderKL:
    """Train the autoencoder, or continue; return it with averaged weights and its `scaling_factor` measured.

    A finished autoencoder is read from `folder`/model; `folder`/latents.npy and report.json are written with it.
    """
    if (folder / "report.json").exists():
        return AutoencoderKL.from_pretrained(folder / "model").to(device).eval()
    torch.manual_seed(plan.seed)
    vae = models.vae().to(device, memory_format=torch.channels_last)
    train(vae, vae_loss(vae, pictures.pixels, device, plan.steps), plan, folder)
    latents, psnr = _encode_all(vae, pictures.pixels, device)
    latents = centre_latents(vae, latents)
    scale = 1 / float(latents.std())
    vae.register_to_config(scaling_factor=scale)
    vae.save_pretrained(folder / "model")
    with replacing(folder / "latents.npy") as path, path.open("wb") as handle:
        np.save(handle, latents * np.float32(scale))
    write_json(folder / "report.json", {"steps": plan.steps, "psnr_db": psnr, "scaling_factor": scale})
    return vae


def vae_loss(vae: AutoencoderKL, pixels: np.ndarray, device: torch.device, steps: int) -> BatchLoss:
    """Return the loss: L1 on pixels, on two coarser scales and on neighbour differences, plus a weak KL.

    64 px crops come first; whole pictures take over linearly (group norm sees other statistics on crops).
    """

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        whole = bool(torch.rand((), generator=generator) < step / steps)
        batch = _wholes(pixels, generator) if whole else _crops(pixels, generator)
        target = to_model_range(batch, device)
        posterior = vae.encode(target).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample
        pixel, edge = _pixel_loss(drawn, target), _edge_loss(drawn, target)
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return {
            "loss": pixel + EDGE_WEIGHT * edge + KL_WEIGHT * divergence,
            "l1": l1_loss(drawn, target),
            "kl": divergence,
        }

    return loss


def to_model_range(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Return uint8 (B, H, W, 3) pixels as float (B, 3, H, W) in [-1, 1]."""
    batch = torch.from_numpy(np.array(pixels)).to(device)
    return batch.permute(0, 3, 1, 2).float() / 127.5 - 1


def _crops(pixels: np.ndarray, generator: torch.Generator) -> np.ndarray:
    chosen = torch.randint(len(pixels), (CROPS,), generator=generator).tolist()
    corners = torch.randint(pixels.shape[1] - CROP + 1, (CROPS, 2), generator=generator).tolist()
    return np.stack(
        [
            pixels[i, top : top + CROP, left : left + CROP]
            for i, (top, left) in zip(chosen, corners, strict=True)
        ]
    )


def _wholes(pixels: np.ndarray, generator: torch.Generator) -> np.ndarray:
    chosen: np.ndarray = pixels[torch.randint(len(pixels), (WHOLES,), generator=generator).numpy()]
    return chosen


def _pixel_loss(drawn: Tensor, target: Tensor) -> Tensor:
    coarse = sum(l1_loss(avg_pool2d(drawn, k), avg_pool2d(target, k)) for k in (2, 4))
    return l1_loss(drawn, target) + 0.5 * coarse


def _edge_loss(drawn: Tensor, target: Tensor) -> Tensor:
    error = drawn - target
    return error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


@torch.no_grad()
def centre_latents(vae: AutoencoderKL, latents: np.ndarray) -> np.ndarray:
    """Fold a shift and a scale of each latent channel into the autoencoder; return the latents it now gives.

    `latents` (N, 4, h, w) are the means it gave before. Afterwards every channel has mean 0 over the data and the
    same spread: Stable Diffusion scales latents by one number and shifts them by none, and a white background would
    else leave a large constant in them. Pictures survive unchanged, since both 1x1 convolutions take part.
    """
    mean, spread = latents.mean(axis=(0, 2, 3)), latents.std(axis=(0, 2, 3))
    factor = np.exp(np.log(spread).mean()) / spread
    shift, scale = (torch.from_numpy(value).to(vae.device) for value in (mean, factor))
    encode, decode = vae.quant_conv, vae.post_quant_conv
    channels = len(scale)
    encode.weight[:channels] *= scale[:, None, None, None]
    encode.bias[:channels] = (encode.bias[:channels] - shift) * scale
    encode.bias[channels:] += 2 * scale.log()
    decode.bias += decode.weight[:, :, 0, 0] @ shift
    decode.weight /= scale[:, None, None]
    centred: np.ndarray = (latents - mean[:, None, None]) * factor[:, None, None]
    return centred


@torch.no_grad()
def _encode_all(vae: AutoencoderKL, pixels: np.ndarray, device: torch.device) -> tuple[np.ndarray, float]:
    """Return the mean latents of all pictures, float32 (N, 4, 16, 16), and the mean PSNR in dB over every 8th."""
    starts = range(0, len(pixels), 32)
    latents, decibels = [], []
    for start in track(starts, "encode", total=len(starts)):
        target = to_model_range(pixels[start : start + 32], device)
        means = vae.encode(target).latent_dist.mean
        latents.append(means.float().cpu().numpy())
        error = (vae.decode(means[::8]).sample.clamp(-1, 1) - target[::8]) / 2
        decibels += [-10 * math.log10(max(float(e.square().mean()), 1e-10)) for e in error]
    return np.concatenate(latents), float(np.mean(decibels))
