"""Pictures on disk: written whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.atomic import write_bytes
from linzoo.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The picture format that each suffix stands for."""


def check_target(path: Path, *, page: bool) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        UsageError: the suffix stands for no picture format, nor, with ``page``, for an HTML page.
        CheckpointError: the place cannot be written.
    """
    allowed = [*FORMATS, ".html"] if page else list(FORMATS)
    if path.suffix.lower() not in allowed:
        raise UsageError(f"{path}: name a file that ends in one of {', '.join(allowed)}.")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise CheckpointError(f"cannot write {path}: {there} is no folder that you may write to.")


def write_image(path: Path, image: Image) -> None:
    """Write a picture in the format of the path's suffix; see :func:`write_bytes`."""
    write_bytes(path, encode(image, FORMATS[path.suffix.lower()]))


def encode(image: Image, kind: str = "PNG") -> bytes:
    """The picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
