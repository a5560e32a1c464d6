"""Stage 4: the image-text encoder, which tells how well a picture of mini fits a text."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import CLIPModel, CLIPTokenizer

from .clip_augment import augment
from .clip_data import Described, described, draw
from .clip_model import clip, image_features, random_patches, text_features
from .clip_report import measure
from .files import write_json
from .loop import BatchLoss, Plan, train
from .render import Pictures
from .train_vae import to_model_range

PLAN = Plan(steps=2000, lr=1e-3, warmup=100, ema=0.995, weight_decay=0.1, seed=2, save_every=200)
BATCH = 64
PATCHES_SEEN = 32
"""Of a picture's 64 patches a step sees these many, random ones, which halves its time (Li et al. 2023, FLIP)..."""
ALL_SEEN_FROM = 0.9
"""... but all of them after this part of the steps, since that is how the encoder is used."""
SHARPEST = math.log(100)
"""The learned temperature's bound, as CLIP has it."""


def train_clip(
    pictures: Pictures,
    reconstructions: np.ndarray,
    tokenizer: CLIPTokenizer,
    folder: Path,
    device: torch.device,
    plan: Plan = PLAN,
) -> CLIPModel:
    """Train the image-text encoder from nothing, or continue; return it with averaged weights.

    `folder`/report.json tells how well it knows the held-out pictures, sharp and reconstructed (`clip_report`).
    """
    torch.manual_seed(plan.seed)
    model = clip(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id).to(device)
    data = described(pictures, reconstructions, tokenizer)
    train(model, contrastive_loss(model, data, device, plan.steps), plan, folder)
    if not (folder / "report.json").exists():
        report = {
            "steps": plan.steps,
            "originals": measure(model, pictures, pictures.pixels, tokenizer),
            "reconstructions": measure(model, pictures, reconstructions, tokenizer),
        }
        write_json(folder / "report.json", report)
    return model


def contrastive_loss(model: CLIPModel, data: Described, device: torch.device, steps: int) -> BatchLoss:
    """Return CLIP's loss: of all texts in the batch the own one fits a picture best, and the other way round."""

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = draw(data, BATCH // 2, generator)
        pixels = augment(to_model_range(batch.pixels, device), generator)
        seen = random_patches(len(pixels), PATCHES_SEEN, generator) if step < ALL_SEEN_FROM * steps else None
        fit = image_features(model, pixels, seen) @ text_features(model, batch.ids.to(device)).T
        logits = fit * model.logit_scale.clamp(max=SHARPEST).exp()
        return {"loss": matching_loss(logits, batch.also_true.to(device)), "own": fit.diagonal().mean()}

    return loss


def matching_loss(logits: Tensor, also_true: Tensor) -> Tensor:
    """Return the mean of both cross entropies of `logits` (B, B), pictures by texts, whose diagonal is right.

    Pairs that are true without being a picture's own (`also_true`) are no negatives: they are left out.
    """
    kept = logits.masked_fill(also_true, -torch.inf)
    right = torch.arange(len(kept), device=kept.device)
    return (cross_entropy(kept, right) + cross_entropy(kept.T, right)) / 2
