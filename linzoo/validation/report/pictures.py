"""The picture pairs of a report, each once, and their files."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from linzoo.generate.output import FORMATS
from linzoo.validation.errors import ValidationError

_LARGE = 200_000
"""Bytes from which a picture is not embedded as it is: that of 512 px and more."""
_QUALITY = 90


@dataclass(frozen=True)
class Pair:
    """What teacher and student drew, with all that the measures say of it.

    Attributes:
        title: the prompt.
        details: what else to know.
        teacher, student: the files, relative to the report's folder.
    """

    title: str
    details: tuple[str, ...]
    teacher: str
    student: str

    @property
    def detail(self) -> str:
        """All details in a line."""
        return " · ".join(self.details)


@dataclass(frozen=True)
class Embedded:
    """A picture inside a page.

    Attributes:
        uri: the whole file as a ``data:`` URI.
        width, height: in pixels.
    """

    uri: str
    width: int
    height: int


def pairs_of(document: Mapping[str, Any]) -> list[Pair]:
    """The pairs of all measures, in order; what several measures show is one pair with the details of each."""
    found: dict[tuple[str, str], Pair] = {}
    for measure in document["measures"]:
        for each in measure["pictures"]:
            files = each["teacher"], each["student"]
            known = found[files].details if files in found else ()
            details = tuple(dict.fromkeys([*known, *filter(None, [each["detail"]])]))
            found[files] = Pair(each["title"], details, *files)
    return list(found.values())


def embed(folder: Path, name: str) -> Embedded:
    """Read a picture for a page; a large one is compressed, so that a page of many can be sent around.

    Raises:
        ValidationError: see :func:`locate`; or it is no picture of a kind that linzoo writes.
    """
    path = locate(folder, name)
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=sorted(set(FORMATS.values()))) as picture:
            kind, (width, height) = picture.format or "", picture.size
            if len(data) > _LARGE:
                kind, data = "WEBP", _compressed(picture)
    except OSError as error:
        raise ValidationError(f"the picture {path} cannot be shown: {error}; draw it again") from error
    return Embedded(f"data:{Image.MIME[kind]};base64,{base64.b64encode(data).decode()}", width, height)


def _compressed(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=_QUALITY)
    return buffer.getvalue()


def locate(folder: Path, name: str) -> Path:
    """Find a picture of the report.

    Raises:
        ValidationError: it lies outside the report's folder, from which nothing may be shown, or is missing.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValidationError(
            f"the picture {name!r} lies outside {folder}; a report shows its own pictures only"
        )
    if not path.is_file():
        raise ValidationError(f"the picture {path} of the report is missing; run the validation again")
    return path
