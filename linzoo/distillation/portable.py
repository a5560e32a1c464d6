"""A distill recipe as a lock file records it: without the paths, commands and keys of the machine that it ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from linzoo.checkpoints.digest import hash_document

_SEVERAL = "::"  # webdataset's, between the addresses of one source
_COMMAND = "pipe:"  # webdataset's, before a shell command
_URL = re.compile(r"(?!file:)([a-z][\w+.-]*://)(?:[^/@]*@)?([^?#]*).*", re.IGNORECASE | re.DOTALL)
_FILE = re.compile(r"file:/*(?=/)")
_SLASHES = re.compile(r"[/\\]+")
_ELSEWHERE = re.compile(
    r"|~.*|[a-z]:", re.IGNORECASE
)  # how a path begins that is not below the working directory


def describe_recipe(name: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """Record a distill recipe: its settings as others may read them, and a hash of these.

    Of a path that leads out of the working directory (it is absolute, or begins with ``~``, or has ``..`` in it) the last part
    stays, of a command nothing, of a URL all but user and query, which may be keys. Where the cache was is left out. Paths below
    the working directory, names on the Hub and files in packages stay.

    Args:
        name: what the recipe is called.
        document: its settings as plain data.
    """
    data = document.get("data")
    if isinstance(data, Mapping):
        source = data.get("source")
        portable = (
            _SEVERAL.join(map(_portable, source.split(_SEVERAL))) if isinstance(source, str) else source
        )
        document = {**document, "data": {**data, "source": portable, "cache": None}}
    return {"id": name, "sha256": hash_document(document), "document": document}


def publishable(lock: Mapping[str, Any]) -> Mapping[str, Any]:
    """A lock file's contents with its recipe as :func:`describe_recipe` records it, which earlier versions of linzoo did not."""
    distill = lock.get("distill")
    if distill is None:
        return lock
    recipe = describe_recipe(distill["recipe"]["id"], distill["recipe"]["document"])
    if recipe["document"] == distill["recipe"]["document"]:
        return lock  # the hash that is recorded stays, right or wrong
    return {**lock, "distill": {**distill, "recipe": recipe}}


def _portable(source: str) -> str:
    if source.startswith(_COMMAND):
        return _COMMAND
    if url := _URL.fullmatch(source):
        return url[1] + url[2]
    parts = _SLASHES.split(_FILE.sub("", source).rstrip("/\\"))
    return parts[-1] if _ELSEWHERE.fullmatch(parts[0]) or ".." in parts else source
