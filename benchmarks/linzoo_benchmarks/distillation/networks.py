"""The networks of a variant for timing: with the weights that ship, else with fresh random ones of the same shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from linzoo.checkpoints.components import component_config
from linzoo.distillation.batch import Batch, Conditioning
from linzoo.plugin import Variant
from linzoo_benchmarks.distillation.models import registry

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
CAPTION_TOKENS = {"mini": 32}
"""Tokens of a caption where they are not CLIP's 77."""


@dataclass(frozen=True)
class Pictures:
    """What the published loop reads of its data: pictures in -1 to 1, (B, 3, height, width), and their captions' tokens."""

    images: Tensor
    tokens: Tensor


class Networks:
    """The networks of one variant on a device.

    Attributes:
        variant: which.
        size: pixels of a side.
        scheduler: the noise schedule.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.variant: Variant = registry().variants.get_value(name)
        self.device = device
        self._folder = self.variant.components.locate()
        self._index: Mapping[str, Any] = json.loads((self._folder / "model_index.json").read_text())
        self.size = self.variant.native_size["epsilon"]
        self.scheduler = diffusers.DDIMScheduler.from_config(component_config(self.variant, "scheduler"))

    def unet(self, dtype: torch.dtype) -> Any:
        """A UNet, each time the same weights."""
        return self._diffusers("unet", dtype)

    def vae(self, dtype: torch.dtype) -> Any:
        """The autoencoder."""
        return self._diffusers("vae", dtype)

    def text_encoders(self, dtype: torch.dtype) -> list[nn.Module]:
        """One, or SDXL's two."""
        return [self._transformers(name, dtype) for name in TEXT_ENCODERS if name in self._index]

    def latents(self, batch: int) -> Tensor:
        """Numbers in the place of latents, float32, (B, 4, size / 8, size / 8)."""
        return torch.randn(batch, 4, self.size // 8, self.size // 8, device=self.device)

    def pictures(self, batch: int) -> Pictures:
        """Numbers in the place of pictures and captions."""
        tokens = CAPTION_TOKENS.get(self.variant.id, 77)
        return Pictures(
            torch.rand(batch, 3, self.size, self.size, device=self.device) * 2 - 1,
            torch.randint(0, 1000, (batch, tokens), device=self.device),
        )

    def batch(self, dtype: torch.dtype, batch: int) -> Batch:
        """Samples in host memory, float32, as linzoo's caches have them; the encoders are there only for now."""
        found = self.encode(self.text_encoders(dtype), self.pictures(batch).tokens)
        conditioning = each_of(found, lambda tensor: tensor.float().cpu())
        return Batch(self.latents(batch).cpu(), conditioning, conditioning)

    @torch.no_grad()
    def encode(self, encoders: list[nn.Module], tokens: Tensor) -> Conditioning:
        """The conditioning of captions, as the published scripts compute it."""
        if len(encoders) == 1:
            return Conditioning(encoders[0](tokens)[0])
        first, second = (encoder(tokens, output_hidden_states=True) for encoder in encoders)
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        sizes = [self.size, self.size, 0, 0, self.size, self.size]
        time_ids = torch.tensor([sizes], device=tokens.device, dtype=text.dtype).expand(len(tokens), -1)
        return Conditioning(text, second[0], time_ids)

    def _diffusers(self, component: str, dtype: torch.dtype) -> Any:
        kind = getattr(diffusers, self._index[component][1])
        if _has_weights(self._folder / component):
            model = kind.from_pretrained(self._folder, subfolder=component, local_files_only=True)
        else:
            torch.manual_seed(0)
            with self.device:
                model = kind.from_config(component_config(self.variant, component))
        return model.to(self.device, dtype).requires_grad_(False).eval()

    def _transformers(self, component: str, dtype: torch.dtype) -> nn.Module:
        kind = getattr(transformers, self._index[component][1])
        if _has_weights(self._folder / component):
            model = kind.from_pretrained(self._folder / component, local_files_only=True)
        else:
            with self.device:
                model = kind(kind.config_class.from_pretrained(self._folder / component))
        made: nn.Module = model.to(self.device, dtype).requires_grad_(False).eval()
        return made


def each_of(conditioning: Conditioning, change: Callable[[Tensor], Tensor]) -> Conditioning:
    """The conditioning with every tensor of it changed."""
    pooled, time_ids = (
        None if tensor is None else change(tensor) for tensor in (conditioning.pooled, conditioning.time_ids)
    )
    return Conditioning(change(conditioning.text), pooled, time_ids)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))
