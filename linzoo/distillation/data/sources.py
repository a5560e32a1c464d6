"""The source of items that a recipe names."""

from __future__ import annotations

from pathlib import Path

from linzoo.distillation.data.folder import ImageFolder
from linzoo.distillation.data.huggingface import HuggingFace
from linzoo.distillation.data.items import Source
from linzoo.distillation.data.prompts import Prompts
from linzoo.distillation.data.webdataset import WebDataset
from linzoo.distillation.recipe import Data
from linzoo.errors import PluginError
from linzoo.plugin.lazy import Resource
from linzoo.plugin.spec import SpecError


def open_source(data: Data, most: int | None) -> Source:
    """Open the source of a recipe's data, with ``most`` items at most.

    Raises:
        DataError: it is not there, holds nothing, or is not what the recipe says.
    """
    if data.kind == "prompts":
        return Prompts(locate(data.source), most, data.sampling.per_prompt)
    if data.kind == "folder":
        return ImageFolder(locate(data.source), data.caption_column, most)
    return HuggingFace(data, most) if data.kind == "huggingface" else WebDataset(data, most)


def locate(source: str) -> Path:
    """The path that a recipe means, relative to the working directory, or ``package:path`` in a package."""
    path = Path(source).expanduser()
    package, colon, inside = source.partition(":")
    if path.exists() or not colon:
        return path
    try:
        return Resource(package, inside).locate()
    except (SpecError, PluginError):
        return path
