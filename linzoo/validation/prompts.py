"""The prompts that teacher and student draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linzoo.distillation.data.items import fingerprint
from linzoo.distillation.data.latents import held_out_rank
from linzoo.distillation.data.prompts import Prompts
from linzoo.distillation.data.sources import locate
from linzoo.errors import UsageError


def least_trained_on(source: str) -> list[str]:
    """The prompts of a distill recipe, those first that a distillation keeps from training.

    Args:
        source: as ``data.source`` of a recipe of kind ``prompts`` names it.

    Raises:
        DataError: it cannot be read.
    """
    prompts = [item.caption for _, item in Prompts(locate(source)).items(0, 1)]
    return sorted(prompts, key=lambda prompt: held_out_rank(fingerprint(prompt)))


def read_prompts(path: Path) -> list[str]:
    """Read a file of prompts, in its order.

    Text has one prompt a line. JSON is a list of prompts, or captions as COCO publishes them: an object with
    ``annotations``, of which the first caption of each picture is taken, pictures by their number.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        prompts = _of_json(json.loads(text)) if path.suffix.lower() == ".json" else text.splitlines()
        found = [prompt.strip() for prompt in prompts if prompt.strip()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as prompts: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path}: holds neither a list of prompts nor COCO's captions, an object with 'annotations', each with"
            " 'image_id' and 'caption'"
        ) from error
    if not found:
        raise UsageError(f"{path}: holds no prompt; write one a line")
    return found


def _of_json(document: Any) -> list[str]:
    if isinstance(document, list):
        return document
    first: dict[int, tuple[int, str]] = {}
    for each in document["annotations"]:
        candidate = (int(each["id"]), each["caption"])
        first[each["image_id"]] = min(first.get(each["image_id"], candidate), candidate)
    return [caption for _, (_, caption) in sorted(first.items())]
