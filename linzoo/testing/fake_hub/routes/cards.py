"""The metadata of model cards."""

from __future__ import annotations

import re
from typing import Any

import yaml

from linzoo.testing.fake_hub.messages import Answer, Call, json_answer
from linzoo.testing.fake_hub.repository import Tree
from linzoo.testing.fake_hub.routing import Router
from linzoo.testing.fake_hub.storage import Storage

router = Router()

_FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(?:\r?\n|$)", re.DOTALL)


@router.on("POST", "/api/validate-yaml")
def validate(call: Call) -> Answer:
    """Whether the metadata of a card can be read; the client asks without a token too."""
    try:
        metadata = _read(call.json()["content"])
    except ValueError as error:
        return json_answer({"errors": [{"message": str(error)}], "warnings": []}, status=400)
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return json_answer({"errors": [], "warnings": warnings})


def card_of(storage: Storage, tree: Tree) -> dict[str, Any]:
    """The metadata of the card of a commit; empty where there is none that can be read."""
    if "README.md" not in tree:
        return {}
    try:
        return _read(storage.read(tree["README.md"]).decode(errors="replace"))
    except ValueError:
        return {}


def _read(text: str) -> dict[str, Any]:
    """The metadata at the front of a card; empty where there is none.

    Raises:
        ValueError: it is no YAML, or no mapping.
    """
    found = _FRONT_MATTER.match(text)
    if found is None:
        return {}
    try:
        metadata = yaml.safe_load(found[1]) or {}
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(metadata, dict):
        raise ValueError("metadata is not a mapping")
    return metadata
