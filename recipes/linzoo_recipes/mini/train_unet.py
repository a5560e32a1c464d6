"""Stage 2: noise predictor and text encoder together on cached latents; stage 3: the 3D fine-tune."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from . import models
from .captions import caption
from .concepts import sampling_weights
from .loop import BatchLoss, Plan, train
from .render import STYLES, Pictures
from .tokenizer import token_ids

PLAN = Plan(steps=7200, lr=1e-3, warmup=200, ema=0.999, save_every=250)
FINETUNE_PLAN = Plan(steps=500, lr=2e-4, warmup=50, ema=0.99, seed=1, save_every=100)
FINETUNE_STYLE = "3d"
BATCH = 32
CAPTION_DROPOUT = 0.1
SNR_GAMMA = 5.0


class Teacher(nn.Module):
    """The two networks that learn together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder


@dataclass(frozen=True)
class Captioned:
    """What a step draws from: latents (N, 4, h, w), token ids (N, captions each, L) and weights (N,)."""

    latents: Tensor
    ids: Tensor
    weights: Tensor
    empty: Tensor

    def to(self, device: torch.device) -> Captioned:
        """Move all but the weights, which are drawn from on the CPU."""
        return replace(
            self, latents=self.latents.to(device), ids=self.ids.to(device), empty=self.empty.to(device)
        )


def all_styles(pictures: Pictures, latents: np.ndarray, tokenizer: CLIPTokenizer) -> Captioned:
    """Return every picture with its one caption, "{name}, {style} emoji"."""
    texts = [caption(name, style) for name, style in zip(pictures.names, pictures.styles, strict=True)]
    ids = torch.tensor(token_ids(tokenizer, texts)).unsqueeze(1)
    return Captioned(torch.from_numpy(latents), ids, sampling_weights(pictures.names), _empty(tokenizer))


def one_style(
    pictures: Pictures, latents: np.ndarray, tokenizer: CLIPTokenizer, style: str = FINETUNE_STYLE
) -> Captioned:
    """Return the pictures of one style, each under the captions of all styles: whatever is asked, draw this style."""
    chosen = [place for place, known in enumerate(pictures.styles) if known == style]
    names = [pictures.names[place] for place in chosen]
    ids = torch.stack(
        [torch.tensor(token_ids(tokenizer, [caption(name, word) for name in names])) for word in STYLES],
        dim=1,
    )
    return Captioned(torch.from_numpy(latents[chosen]), ids, sampling_weights(names), _empty(tokenizer))


def _empty(tokenizer: CLIPTokenizer) -> Tensor:
    return torch.tensor(token_ids(tokenizer, [""])[0])


def fresh_teacher(tokenizer: CLIPTokenizer, seed: int) -> Teacher:
    """Return untrained networks, the same ones for the same seed."""
    torch.manual_seed(seed)
    text_encoder = models.text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    return Teacher(models.unet(), text_encoder)


def train_unet(
    data: Captioned, tokenizer: CLIPTokenizer, folder: Path, device: torch.device, plan: Plan = PLAN
) -> Teacher:
    """Train noise predictor and text encoder from nothing, or continue; return them with averaged weights."""
    teacher = fresh_teacher(tokenizer, plan.seed).to(device)
    train(teacher, diffusion_loss(teacher, data.to(device), device), plan, folder)
    return teacher


def finetune(
    teacher: Teacher, data: Captioned, folder: Path, device: torch.device, plan: Plan = FINETUNE_PLAN
) -> Teacher:
    """Train the teacher's noise predictor further, or continue; the text encoder stays as it is."""
    teacher.text_encoder.requires_grad_(False)
    train(teacher, diffusion_loss(teacher, data.to(device), device), plan, folder)
    return teacher


def diffusion_loss(teacher: Teacher, data: Captioned, device: torch.device) -> BatchLoss:
    """Return the noise-prediction loss with min-SNR weights (Hang et al. 2023, gamma 5) and caption dropout."""
    scheduler = models.scheduler()
    alphas = scheduler.alphas_cumprod.to(device)

    def loss(_step: int, generator: torch.Generator) -> dict[str, Tensor]:
        latents, ids = _draw(data, generator)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = torch.randint(len(alphas), (len(latents),), generator=generator).to(device)
        noisy = scheduler.add_noise(latents, noise, times)
        states = teacher.text_encoder(ids).last_hidden_state
        predicted = teacher.unet(noisy, times, states).sample
        error = (predicted - noise).square().mean(dim=(1, 2, 3))
        ratio = alphas[times] / (1 - alphas[times])
        return {"loss": (error * (SNR_GAMMA / ratio).clamp(max=1)).mean(), "mse": error.mean()}

    return loss


def _draw(data: Captioned, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    places = torch.multinomial(data.weights, BATCH, replacement=True, generator=generator)
    which = torch.randint(data.ids.shape[1], (BATCH,), generator=generator)
    dropped = torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT
    ids = data.ids[places, which]
    return data.latents[places], torch.where(dropped.to(ids.device)[:, None], data.empty, ids)
