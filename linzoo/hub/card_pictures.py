"""Which pictures of a validation's report a model card shows, and what they are called in the repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linzoo.validation.report.pictures import locate, pairs_of

FOLDER = "report"
"""The folder of a repository that holds them."""

_DRAWN = 4


@dataclass(frozen=True)
class CardPicture:
    """A picture of a model card.

    Attributes:
        path: its path in the repository.
        file: its path in the report's folder.
        kind: ``sheet`` for teacher and student side by side, ``drawn`` for what the student drew, ``chart``.
        text: the prompt, or the title.
    """

    path: str
    file: str
    kind: Literal["sheet", "drawn", "chart"]
    text: str


def card_pictures(report: Mapping[str, Any]) -> list[CardPicture]:
    """The contact sheet, what the student drew for the first prompts, and the charts.

    The first prompts, so that nobody chooses among the pictures.

    Args:
        report: what ``report.json`` holds; the sheet and the charts lie in ``card/`` beside it, as
            :func:`linzoo.validation.report.card.write_card_pictures` names them.
    """
    return [*_drawn(report), *_charts(report)]


def files_of(report: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """The files of these pictures, by their paths in the repository.

    Args:
        report: as :func:`card_pictures`.
        folder: of the report.

    Raises:
        ValidationError: one is missing, or lies outside the folder: nothing else of this machine is published.
    """
    return {each.path: locate(folder, each.file) for each in card_pictures(report)}


def _drawn(report: Mapping[str, Any]) -> Iterator[CardPicture]:
    pairs = pairs_of(report)
    if pairs:
        title = "Teacher and student, the same prompts and noise"
        yield CardPicture(f"{FOLDER}/pictures.png", "card/pictures.png", "sheet", title)
    for number, pair in enumerate(pairs[:_DRAWN], 1):
        yield CardPicture(f"{FOLDER}/student-{number}.png", pair.student, "drawn", pair.title)


def _charts(report: Mapping[str, Any]) -> Iterator[CardPicture]:
    for measure in report["measures"]:
        for number, chart in enumerate(measure["charts"], 1):
            name = f"{measure['name']}-{number}.png"
            yield CardPicture(
                f"{FOLDER}/{name}", f"card/{name}", "chart", f"{measure['title']}: {chart['title']}"
            )
