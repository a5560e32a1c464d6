"""How well the image-text encoder knows pictures it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from .captions import caption
from .clip_data import held_out
from .clip_model import image_features, text_features
from .concepts import CORE
from .render import STYLES, Pictures
from .tokenizer import token_ids
from .train_vae import to_model_range

CANDIDATES = 1000
"""Among how many captions a picture's own one is searched: those of all held-out pictures, and others' in turn."""


@torch.no_grad()
def measure(
    model: CLIPModel, pictures: Pictures, pixels: np.ndarray, tokenizer: CLIPTokenizer
) -> dict[str, float]:
    """Return how often the held-out pictures find their text; `pixels` are theirs or their reconstructions.

    `recall_at_1`, `recall_at_5`: own caption first, or among the first five, of `candidates` captions. `style`: own
    style before the others under the own name. `core_name`: own name before all other core names under the own
    style, for pictures of core things. All are parts of one.
    """
    places = [place for place, out in enumerate(held_out(pictures.names, pictures.styles)) if out]
    names = [pictures.names[place] for place in places]
    styles = [pictures.styles[place] for place in places]
    seen = _images(model, pixels[places])
    own = [caption(*pair) for pair in zip(names, styles, strict=True)]
    candidates = _candidates(own, pictures)
    order = (seen @ _texts(model, tokenizer, candidates).T).argsort(dim=1, descending=True)
    rank = (order == torch.tensor([[candidates.index(text)] for text in own])).int().argmax(dim=1)
    core = [place for place, name in enumerate(names) if name in CORE]
    return {
        "pictures": len(places),
        "candidates": len(candidates),
        "recall_at_1": float((rank < 1).float().mean()),
        "recall_at_5": float((rank < 5).float().mean()),
        "style": _styles_right(model, tokenizer, seen, names, styles),
        "core_pictures": len(core),
        "core_name": _names_right(
            model, tokenizer, seen[core], [names[place] for place in core], [styles[place] for place in core]
        ),
    }


def _candidates(own: Sequence[str], pictures: Pictures) -> list[str]:
    others = [caption(*pair) for pair in zip(pictures.names, pictures.styles, strict=True)]
    distinct = list(dict.fromkeys([*own, *others[:: max(1, len(others) // CANDIDATES)], *others]))
    return distinct[: max(CANDIDATES, len(set(own)))]


def _styles_right(
    model: CLIPModel, tokenizer: CLIPTokenizer, seen: Tensor, names: Sequence[str], styles: Sequence[str]
) -> float:
    texts = _texts(model, tokenizer, [caption(name, style) for name in names for style in STYLES])
    fit = torch.einsum("bd,bsd->bs", seen, texts.view(len(names), len(STYLES), -1))
    right = torch.tensor([STYLES.index(style) for style in styles])
    return float((fit.argmax(dim=1) == right).float().mean())


def _names_right(
    model: CLIPModel, tokenizer: CLIPTokenizer, seen: Tensor, names: Sequence[str], styles: Sequence[str]
) -> float:
    known = sorted(CORE)
    asked = dict.fromkeys(styles)
    texts = {style: _texts(model, tokenizer, [caption(name, style) for name in known]) for style in asked}
    guesses = [known[int((texts[style] @ one).argmax())] for one, style in zip(seen, styles, strict=True)]
    return sum(guess == name for guess, name in zip(guesses, names, strict=True)) / max(1, len(names))


def _images(model: CLIPModel, pixels: np.ndarray) -> Tensor:
    parts = [
        image_features(model, to_model_range(pixels[start : start + 128], model.device))
        for start in range(0, len(pixels), 128)
    ]
    return torch.cat(parts).cpu()


def _texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    ids = torch.tensor(token_ids(tokenizer, texts)).to(model.device)
    return torch.cat([text_features(model, part) for part in ids.split(256)]).cpu()
