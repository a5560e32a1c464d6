"""The image-text encoder, untrained: CLIP's structure at a hundredth of its size, for pictures of 128 px."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel

from . import models
from .render import SIZE

PATCH = 16
VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 128, 4, 4
EMBEDDING = 128


def clip(tokens: int, start: int, end: int) -> CLIPModel:
    """Return the encoder for a vocabulary of `tokens` with the given special ids, 1.6 M parameters.

    Pictures are 64 patches through four layers of 128; the text half is built as mini's own text encoder.
    """
    text = models.text_encoder(tokens, start, end).config
    vision = {
        "hidden_size": VISION_WIDTH,
        "intermediate_size": 4 * VISION_WIDTH,
        "num_hidden_layers": VISION_LAYERS,
        "num_attention_heads": VISION_HEADS,
        "image_size": SIZE,
        "patch_size": PATCH,
        "projection_dim": EMBEDDING,
    }
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=EMBEDDING))


def random_patches(pictures: int, count: int, generator: torch.Generator) -> Tensor:
    """Return `count` different patches of each picture, (B, count), for `image_features`."""
    patches = (SIZE // PATCH) ** 2
    return torch.rand(pictures, patches, generator=generator).argsort(dim=1)[:, :count]


def image_features(model: CLIPModel, pixels: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return unit vectors (B, 128) of pictures (B, 3, 128, 128) in [-1, 1], of all patches or the `seen` ones (B, n)."""
    if seen is None:
        return normalize(model.get_image_features(pixel_values=pixels).pooler_output)
    vision = model.vision_model
    whole = vision.embeddings(pixels)
    places = torch.cat([torch.zeros(len(seen), 1, dtype=torch.long), seen + 1], dim=1).to(pixels.device)
    part = whole.gather(1, places[:, :, None].expand(-1, -1, whole.shape[2]))
    states = vision.encoder(inputs_embeds=vision.pre_layrnorm(part)).last_hidden_state
    return normalize(model.visual_projection(vision.post_layernorm(states[:, 0])))


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Return unit vectors (B, 128) of token ids (B, L)."""
    return normalize(model.get_text_features(input_ids=ids).pooler_output)
