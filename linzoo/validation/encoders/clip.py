"""CLIP: pictures and texts in one space. The published ones, mini's own, and any in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_processing_utils import BaseImageProcessor

from linzoo.plugin.lazy import Resource
from linzoo.validation.encoders.pixels import normalise, resize_and_crop
from linzoo.validation.errors import ValidationError

_MINI = Resource("linzoo_mini", "weights/clip")


class ClipEncoder:
    """A CLIP of transformers; an :class:`~linzoo.validation.encoders.protocols.ImageTextEncoder`.

    As CLIP was trained, pictures are scaled so that their shorter side is the network's, bicubic with antialiasing, the
    square in their middle is kept, and normalised by the mean and deviation that its ``preprocessor_config.json`` names.
    Texts are cut at the length that it has positions for. It computes in float32. (CMMD's published code squeezes pictures
    that are not square instead of cutting them.)

    Args:
        source: a folder, or a repository on the Hub, with a ``CLIPModel``, its tokenizer and its preprocessor's config.
        device: the torch device to compute on.

    Raises:
        ValidationError: it is not there, or no CLIP.
    """

    def __init__(self, source: str | Path, device: torch.device | str) -> None:
        try:
            model = CLIPModel.from_pretrained(source, dtype=torch.float32)
            self._tokenizer = CLIPTokenizer.from_pretrained(source)
            # Last, since _is_cached takes it for the sign that all of the repository is there.
            settings, _ = BaseImageProcessor.get_image_processor_dict(source)
        except (OSError, ValueError) as error:
            raise ValidationError(f"{source}: cannot be loaded as a CLIP: {error}") from error
        self._model = model.eval().requires_grad_(False).to(device)
        self._mean, self._std = settings["image_mean"], settings["image_std"]

    def features(self, pixels: Tensor) -> Tensor:
        """Embeddings of pictures, uint8 (B, 3, H, W), as float32 (B, D)."""
        square = resize_and_crop(pixels, self._model.config.vision_config.image_size)
        return _embeddings(self._model.get_image_features(normalise(square, self._mean, self._std)))

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts as float32 (B, D)."""
        tokens = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        return _embeddings(self._model.get_text_features(**tokens.to(self._model.device)))


def _embeddings(output: Any) -> Tensor:
    """The embeddings alone: some releases of transformers give them, others an object that has them."""
    embeddings: Tensor = getattr(output, "pooler_output", output)
    return embeddings


def _is_cached(repo: str) -> bool:
    """Whether a repository's files were downloaded before."""

    def has(name: str) -> bool:
        return isinstance(try_to_load_from_cache(repo, name), str)

    return has("preprocessor_config.json") and (has("model.safetensors") or has("pytorch_model.bin"))


def mini_clip(device: torch.device | str) -> ClipEncoder:
    """The CLIP of emoji that ships with mini.

    Raises:
        PluginError: it does not lie in mini's package.
        ValidationError: it cannot be loaded.
    """
    return ClipEncoder(_MINI.locate(), device)


vit_large_patch14 = partial(ClipEncoder, "openai/clip-vit-large-patch14")
vit_large_patch14_cached = partial(_is_cached, "openai/clip-vit-large-patch14")
vit_large_patch14_336 = partial(ClipEncoder, "openai/clip-vit-large-patch14-336")
vit_large_patch14_336_cached = partial(_is_cached, "openai/clip-vit-large-patch14-336")
vit_g_14 = partial(ClipEncoder, "laion/CLIP-ViT-g-14-laion2B-s12B-b42K")
vit_g_14_cached = partial(_is_cached, "laion/CLIP-ViT-g-14-laion2B-s12B-b42K")
