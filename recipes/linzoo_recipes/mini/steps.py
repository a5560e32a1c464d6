"""The steps from nothing to shipped weights, each of which continues where it was left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPModel, CLIPTokenizer

from . import fetch, models, record
from . import render as rendering
from .captions import caption
from .clip_data import reconstruct
from .tokenizer import load_tokenizer, train_tokenizer
from .train_clip import train_clip
from .train_unet import Teacher, all_styles, finetune, one_style, train_unet
from .train_vae import train_vae


@dataclass(frozen=True)
class Recipe:
    """The recipe with its working folder, the folder of the shipped weights, and the device to train on."""

    out: Path
    weights: Path
    device: torch.device

    def steps(self) -> dict[str, Callable[[], object]]:
        """Return the steps by name, in order."""
        return {
            "fetch": self.fetch,
            "render": self.render,
            "vae": self.train_vae,
            "unet": self.train_unet,
            "finetune": self.finetune,
            "clip": self.train_clip,
            "export": self.export,
            "sheet": self.sheet,
        }

    def fetch(self) -> None:
        """Download and check the emoji packages."""
        for package in fetch.PACKAGES:
            fetch.fetch(package, self.out / "npm")

    def render(self) -> None:
        """Draw all pictures."""
        rendering.render(self.out / "npm", self.out / "data")

    def train_vae(self) -> AutoencoderKL:
        """Train the autoencoder and keep the latents."""
        return train_vae(self.pictures, self.out / "vae", self.device)

    def train_unet(self) -> Teacher:
        """Train noise predictor and text encoder."""
        data = all_styles(self.pictures, self.latents, self.tokenizer)
        return train_unet(data, self.tokenizer, self.out / "unet", self.device)

    def finetune(self) -> Teacher:
        """Train the noise predictor further on one style."""
        data = one_style(self.pictures, self.latents, self.tokenizer)
        return finetune(self.train_unet(), data, self.out / "finetune", self.device)

    def train_clip(self) -> CLIPModel:
        """Train the image-text encoder and measure it."""
        path = self.out / "clip" / "reconstructions.npy"
        soft = reconstruct(self.train_vae(), self.pictures.pixels, path, self.device)
        return train_clip(self.pictures, soft, self.tokenizer, self.out / "clip", self.device)

    def export(self) -> None:
        """Write the shipped weights, the licences of the pictures and the training record."""
        vae = self.train_vae()
        teachers = self.train_unet(), self.finetune()
        record.export(self.out, self.weights, vae, *teachers, self.train_clip(), self.tokenizer)

    def sheet(self) -> None:
        """Draw the sample sheet with the shipped weights."""
        record.sheet(self.weights)

    @cached_property
    def pictures(self) -> rendering.Pictures:
        """The rendered data set."""
        return rendering.load(self.out / "data")

    @property
    def latents(self) -> np.ndarray:
        """The scaled latents of all pictures, float32 (N, 4, 16, 16)."""
        self.train_vae()
        latents: np.ndarray = np.load(self.out / "vae" / "latents.npy")
        return latents

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer, learned from the captions the first time."""
        folder = self.out / "tokenizer"
        if (folder / "tokenizer_config.json").exists():
            return load_tokenizer(folder)
        texts = [caption(*pair) for pair in zip(self.pictures.names, self.pictures.styles, strict=True)]
        return train_tokenizer(texts, folder, models.TEXT_TOKENS)
