"""One step of the published training loop, in its structure: what the speed of linzoo's loop is held against.

Written anew from the published code (LinFusion, arXiv 2409.02097; ``src/train/distill.py``, ``distill_sdxl.py``): a
second UNet as the teacher, hooks on both that append to lists, every step's pictures and captions encoded in the loop,
the published order of operations in the attention, and four losses fetched from the device in every step.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from linzoo.distillation.batch import Conditioning
from linzoo_benchmarks.distillation.networks import Networks, Pictures
from linzoo_benchmarks.official import OfficialLayer

KD, FEATURES = 0.5, 0.5
RATE = 1e-4


class PublishedAttention(OfficialLayer):
    """The published layer with the arguments that a UNet gives its attention."""

    def forward(self, x: Tensor, encoder_hidden_states: None = None, **_: Any) -> Tensor:  # noqa: ARG002
        """(B, L, C) to (B, L, C)."""
        return super().forward(x)


class PublishedLoop:
    """Everything that the published script holds while it trains.

    Args:
        networks: the variant's.
        dtype: of teacher, autoencoder and text encoders (``mixed_precision``); the student is float32.
        encodes: whether pictures and captions are encoded in every step, as published; without, the loop is given
            latents and text states once and holds neither autoencoder nor text encoder.
        batch: samples a step.
        mid_divisor: what the width of the small networks f and g is divided by; the script's ``mid_dim_scale``.
    """

    def __init__(
        self,
        networks: Networks,
        dtype: torch.dtype,
        batch: int,
        *,
        encodes: bool = True,
        mid_divisor: int = 1,
    ) -> None:
        self.networks, self.dtype, self.batch, self.encodes = networks, dtype, batch, encodes
        self.unet = networks.unet(torch.float32)
        self.teacher = networks.unet(torch.float32).to(dtype)
        encoders = networks.text_encoders(dtype)
        self.pictures: Pictures = networks.pictures(batch)
        if encodes:
            self.vae, self.text_encoders = networks.vae(dtype), encoders
        else:
            self.latents = networks.latents(batch).to(dtype)
            self.conditioning = networks.encode(encoders, self.pictures.tokens)
        self.features: list[Tensor] = []
        self.teacher_features: list[Tensor] = []
        layers = nn.ModuleList(self._replace(name, mid_divisor) for name in self._names())
        self.optimizer = torch.optim.AdamW(layers.parameters(), lr=RATE, weight_decay=0.0)

    def step(self) -> dict[str, float]:
        """Train on one batch; returns the losses that the script prints."""
        latents, conditioning = self._inputs()
        noise = torch.randn_like(latents)
        scheduler = self.networks.scheduler
        timesteps = torch.randint(
            0, scheduler.config.num_train_timesteps, (len(latents),), device=latents.device
        )
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.no_grad():
            predicted_by_teacher = self.teacher(noisy, timesteps, **conditioning.kwargs()).sample
        with self._mixed_precision():
            predicted = self.unet(noisy, timesteps, **conditioning.kwargs()).sample.float()
        loss_noise = F.mse_loss(predicted, noise.float())
        loss_kd = F.mse_loss(predicted, predicted_by_teacher.float())
        pairs = zip(self.features, self.teacher_features, strict=True)
        errors = [F.mse_loss(one.float(), other.float()) for one, other in pairs]
        loss_features = torch.stack(errors).sum() / len(errors)
        loss = loss_noise + KD * loss_kd + FEATURES * loss_features
        told = {"loss": loss, "noise": loss_noise, "kd": loss_kd, "features": loss_features}
        numbers = {name: each.repeat(self.batch).mean().item() for name, each in told.items()}
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.features.clear()
        self.teacher_features.clear()
        return numbers

    @torch.no_grad()
    def _inputs(self) -> tuple[Tensor, Conditioning]:
        if not self.encodes:
            return self.latents, self.conditioning
        encoded = self.vae.encode(self.pictures.images.to(self.dtype)).latent_dist.sample()
        conditioning = self.networks.encode(self.text_encoders, self.pictures.tokens)
        return encoded * self.vae.config.scaling_factor, conditioning

    def _mixed_precision(self) -> contextlib.AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.networks.device.type, self.dtype)

    def _names(self) -> list[str]:
        return [name for name, _ in self.unet.named_modules() if name.endswith("attn1")]

    def _replace(self, name: str, mid_divisor: int) -> PublishedAttention:
        """Put a fresh layer in the place of the student's attention, and hooks on both."""
        parent, _, child = name.rpartition(".")
        softmax = self.teacher.get_submodule(name)
        width = softmax.to_q.in_features
        layer = PublishedAttention(_fresh_weights(width, width // mid_divisor), softmax.heads)
        setattr(self.unet.get_submodule(parent), child, layer.to(self.networks.device))
        layer.register_forward_hook(lambda module, given, output: self.features.append(output))
        softmax.register_forward_hook(lambda module, given, output: self.teacher_features.append(output))
        return layer


def _fresh_weights(width: int, mid: int) -> dict[str, Tensor]:
    """Random weights of a layer, as PyTorch's own layers start in scale."""

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns) / math.sqrt(3 * columns)

    weights = {f"{name}.weight": matrix(width, width) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    weights["to_out.0.bias"] = torch.zeros(width)
    for branch in ("to_q_", "to_k_"):
        weights |= {f"{branch}.0.weight": matrix(mid, width), f"{branch}.0.bias": torch.zeros(mid)}
        weights |= {f"{branch}.1.weight": torch.ones(mid), f"{branch}.1.bias": torch.zeros(mid)}
        weights |= {f"{branch}.3.weight": matrix(width, mid), f"{branch}.3.bias": torch.zeros(width)}
    return weights
