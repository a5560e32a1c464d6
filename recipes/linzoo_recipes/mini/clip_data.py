"""What the image-text encoder learns from: pictures with their texts, sharp and reconstructed, less a held-out part."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTokenizer

from .captions import caption
from .concepts import sampling_weights
from .files import replacing
from .progress import track
from .render import STYLES, Pictures
from .tokenizer import token_ids
from .train_vae import to_model_range

HELD_OUT_ONE_IN = 20
CORE_SHARE = 0.5
NAME_ALONE, STYLE_ALONE = 0.15, 0.1
"""How often a picture's text is its name alone, and its style alone, so that both parts of a caption matter."""
CAPTION, NAME, STYLE = range(3)
"""The three texts of a picture, as `Described.ids` has them."""


@dataclass(frozen=True)
class Described:
    """What a step draws from; all tensors lie on the CPU.

    `originals` and `reconstructions`: uint8 (N, 128, 128, 3). `ids` (N, 3, L): each picture's caption, name alone and
    style alone. `names` and `styles` (N,): numbers, equal for equal words. `weights` (N,): how often a picture is
    drawn, 0 when it is held out. `partners` (N, 5): trained pictures of the same name in other styles, in turn; the
    picture itself where there are none. `end`: the token that ends a text.
    """

    originals: np.ndarray
    reconstructions: np.ndarray
    ids: Tensor
    names: Tensor
    styles: Tensor
    weights: Tensor
    partners: Tensor
    end: int


@dataclass(frozen=True)
class Batch:
    """`pixels` uint8 (B, 128, 128, 3); `ids` (B, L); `also_true` (B, B): text j, not i's own, is true of picture i."""

    pixels: np.ndarray
    ids: Tensor
    also_true: Tensor


def reconstruct(vae: AutoencoderKL, pixels: np.ndarray, path: Path, device: torch.device) -> np.ndarray:
    """Return all pictures as the autoencoder gives them back, uint8 (N, 128, 128, 3), a read-only memory map.

    Generated pictures are as soft as these. They are computed once and kept in `path`.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = _encoded_and_decoded(vae, pixels, device)
        with replacing(path) as partial, partial.open("wb") as handle:
            np.save(handle, drawn)
    kept: np.ndarray = np.load(path, mmap_mode="r")
    return kept


@torch.no_grad()
def _encoded_and_decoded(vae: AutoencoderKL, pixels: np.ndarray, device: torch.device) -> np.ndarray:
    drawn = np.empty(pixels.shape, np.uint8)
    starts = range(0, len(pixels), 32)
    for start in track(starts, "reconstruct", total=len(starts)):
        target = to_model_range(pixels[start : start + 32], device)
        soft = vae.decode(vae.encode(target).latent_dist.mean).sample.clamp(-1, 1)
        levels = ((soft + 1) * 127.5).round().to(torch.uint8)
        drawn[start : start + 32] = levels.permute(0, 2, 3, 1).cpu().numpy()
    return drawn


def held_out(names: Sequence[str], styles: Sequence[str]) -> list[bool]:
    """Return for each picture whether it is kept from training: about one (name, style) pair in twenty.

    The pairs are chosen by a hash of their caption, so that they are the same ones everywhere. A pair is kept from
    training only when its name is trained in another style: what is asked later is whether name and style combine.
    """
    pairs = list(zip(names, styles, strict=True))
    hit = {pair: _number(caption(*pair)) % HELD_OUT_ONE_IN == 0 for pair in pairs}
    trained = {name for (name, _), out in hit.items() if not out}
    return [hit[pair] and pair[0] in trained for pair in pairs]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def style_alone(style: str) -> str:
    """Return what is said of a picture when only its style is named."""
    return f"{style} emoji"


def described(pictures: Pictures, reconstructions: np.ndarray, tokenizer: CLIPTokenizer) -> Described:
    """Return the data set for training, with the held-out pictures' weights at 0."""
    names, styles = pictures.names, pictures.styles
    texts = (
        [caption(*pair) for pair in zip(names, styles, strict=True)],
        names,
        [style_alone(style) for style in styles],
    )
    kept = [not out for out in held_out(names, styles)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return Described(
        originals=pictures.pixels,
        reconstructions=reconstructions,
        ids=torch.stack([torch.tensor(token_ids(tokenizer, each)) for each in texts], dim=1),
        names=torch.tensor([numbers[name] for name in names]),
        styles=torch.tensor([STYLES.index(style) for style in styles]),
        weights=sampling_weights(names, core=CORE_SHARE) * torch.tensor(kept),
        partners=_partners(names, kept),
        end=tokenizer.eos_token_id,
    )


def _partners(names: Sequence[str], kept: Sequence[bool]) -> Tensor:
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        if kept[place]:
            alike[name].append(place)
    columns = len(STYLES) - 1
    rows = []
    for place, name in enumerate(names):
        others = [other for other in alike[name] if other != place] or [place]
        rows.append([others[column % len(others)] for column in range(columns)])
    return torch.tensor(rows)


def draw(data: Described, pairs: int, generator: torch.Generator) -> Batch:
    """Return `pairs` pictures drawn by weight, then as many of the same names in other styles; half are reconstructions.

    So every text meets the same thing in another style and, in a batch of some size, other things in the same style.
    """
    first = torch.multinomial(data.weights, pairs, replacement=True, generator=generator)
    column = torch.randint(data.partners.shape[1], (pairs,), generator=generator)
    places = torch.cat([first, data.partners[first, column]])
    soft = torch.rand(2 * pairs, generator=generator) < 0.5
    pixels = np.stack(
        [
            (data.reconstructions if is_soft else data.originals)[place]
            for place, is_soft in zip(places.tolist(), soft.tolist(), strict=True)
        ]
    )
    texts = _texts(2 * pairs, generator)
    ids = data.ids[places, texts]
    # Nothing after a text's end reaches its embedding (attention is causal), so short batches are cut short.
    longest = 1 + int((ids == data.end).int().argmax(dim=1).max())
    return Batch(pixels, ids[:, :longest], also_true(data, places, texts))


def _texts(count: int, generator: torch.Generator) -> Tensor:
    chance = torch.rand(count, generator=generator)
    texts = torch.full((count,), CAPTION)
    texts[chance < NAME_ALONE + STYLE_ALONE] = NAME
    texts[chance < STYLE_ALONE] = STYLE
    return texts


def also_true(data: Described, places: Tensor, texts: Tensor) -> Tensor:
    """Return (B, B): whether picture j's text is true of picture i too, though it is another one's.

    `places` (B,) are the pictures, `texts` (B,) which of its texts each one has.
    """
    names, styles = data.names[places], data.styles[places]
    same_name = (names[:, None] == names) | (texts == STYLE)
    same_style = (styles[:, None] == styles) | (texts == NAME)
    return (same_name & same_style).fill_diagonal_(False)
