"""``report.html``: one file with everything in it, that opens from disk and asks no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from linzoo.checkpoints.atomic import write_bytes
from linzoo.validation.printable import printable
from linzoo.validation.report.again import command_of
from linzoo.validation.report.charts import to_svg
from linzoo.validation.report.pictures import embed, pairs_of
from linzoo.validation.report.wording import NOTHING, bar_of, figure, miss_of, plural, value_of

NAME = "report.html"


def write_report(document: Mapping[str, Any], folder: Path) -> Path:
    """Write the page of a validation, whole or not at all.

    Args:
        document: what ``report.json`` holds; nothing else is read but the pictures that it names.
        folder: where the pictures lie, and where the page goes.

    Returns:
        The page.

    Raises:
        ValidationError: a picture is missing or damaged, or lies outside the folder.
        CheckpointError: the page cannot be written.
    """
    path = folder / NAME
    write_bytes(path, render(document, folder).encode())
    return path


def render(document: Mapping[str, Any], folder: Path) -> str:
    """The page as text; see :func:`write_report`."""
    measures = document["measures"]
    page = _template().render(
        report=document,
        checks=_by_check(measures),
        failed=[each for each in measures if each["verdict"] == "failed"],
        skipped=[each for each in measures if each["verdict"] == "skipped"],
        charts=_charts(measures),
        pairs=_pairs(document, folder),
        command=command_of(document),
    )
    return printable(page)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("linzoo.validation.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=value_of,
        bar=bar_of,
        miss=miss_of,
        figure=lambda value: "not a number" if value is None else figure(value),
        pretty=lambda data: json.dumps(data, indent=2, ensure_ascii=False),
        plain=_plain,
    )
    environment.globals.update(plural=plural)
    return environment.get_template("report.html.jinja")


def _by_check(measures: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for measure in measures:
        groups.setdefault(measure["check"], []).append(measure)
    return groups


def _pairs(document: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "title": pair.title,
            "detail": pair.detail,
            "sides": {"teacher": embed(folder, pair.teacher), "student": embed(folder, pair.student)},
        }
        for pair in pairs_of(document)
    ]


def _charts(measures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The measures that have charts, with each chart drawn, and its figures as rows of a table."""
    groups = []
    for number, measure in enumerate(measures):
        drawn = [
            {
                "title": chart["title"],
                "svg": to_svg(chart, f"chart-{number}-{place}-"),
                **_table(chart),
            }
            for place, chart in enumerate(measure["charts"])
        ]
        if drawn:
            groups.append({"title": measure["title"], "charts": drawn})
    return groups


def _table(chart: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a chart under their whole names, for those who cannot see it and those who want to copy."""
    series = chart["series"]
    places = list(dict.fromkeys(place for points in series.values() for place in points))
    rows = [(place, [points.get(place) for points in series.values()]) for place in places]
    return {"head": [chart["x"], *series], "rows": rows, "y": chart["y"]}


def _plain(value: Any) -> str:
    """A value of the environment or the settings in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        texts = [f"({_plain(each)})" if isinstance(each, list | tuple) else _plain(each) for each in value]
        return ", ".join(texts) or NOTHING
    return NOTHING if value in (None, "") else str(value)
