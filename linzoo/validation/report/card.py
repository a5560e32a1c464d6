"""Pictures of a report that a model card can show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from linzoo.checkpoints.address import SCHEME
from linzoo.checkpoints.atomic import write_bytes
from linzoo.generate.sheet import Card, Sheet
from linzoo.plugin.spec import check_id
from linzoo.validation.errors import ValidationError
from linzoo.validation.report.charts import to_png
from linzoo.validation.report.pictures import Pair, locate, pairs_of

_PAIRS = 8
_WIDEST = 512  # pixels; a model card shows the sheet no larger


def write_card_pictures(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``card/<measure>-<n>.png`` for each chart, and ``card/pictures.png`` with the first pairs side by side.

    Args:
        document: what ``report.json`` holds.
        folder: where its pictures lie, and where ``card`` goes.

    Returns:
        The files; without pairs there is no ``pictures.png``.

    Raises:
        ValidationError: a picture is missing or damaged, or lies outside the folder.
        SpecError: the name of a measure is none.
        CheckpointError: a file cannot be written.
    """
    written = []
    counts: Counter[str] = Counter()
    for measure in document["measures"]:
        name = measure["name"]
        check_id("Measure.name", name)
        for chart in measure["charts"]:
            counts[name] += 1
            path = folder / "card" / f"{name}-{counts[name]}.png"
            write_bytes(path, to_png(chart))
            written.append(path)
    pairs = pairs_of(document)[:_PAIRS]
    if pairs:
        path = folder / "card" / "pictures.png"
        _sheet(document, pairs, folder).save(path)
        written.append(path)
    return written


def _sheet(document: Mapping[str, Any], pairs: list[Pair], folder: Path) -> Sheet:
    opened = [(_open(folder, each.teacher), _open(folder, each.student)) for each in pairs]
    width, height = opened[0][0].size
    scale = min(1, _WIDEST / width)
    size = round(width * scale), round(height * scale)
    cards = [
        Card(
            pair.title, pair.detail, tuple(picture.resize(size, Image.Resampling.LANCZOS) for picture in both)
        )
        for pair, both in zip(pairs, opened, strict=True)
    ]
    return Sheet(
        f"{_public(document['checkpoint']['spec'])} against {_public(document['teacher']['spec'])}",
        "The same prompt and noise, drawn by the teacher with softmax attention and by the student with linear attention.",
        ("teacher (softmax)", "student (linear)"),
        cards,
    )


def _public(spec: str) -> str:
    """What a stranger may read of a SOURCE: the folders above a local one are nobody's business."""
    return spec if spec.startswith(SCHEME) else Path(spec).name


def _open(folder: Path, name: str) -> Image.Image:
    path = locate(folder, name)
    try:
        with Image.open(path) as picture:
            opened: Image.Image = picture.convert("RGB")
    except OSError as error:
        raise ValidationError(f"the picture {path} cannot be shown: {error}; draw it again") from error
    return opened
