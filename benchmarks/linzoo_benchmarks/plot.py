"""Times over tokens as a picture, out of the rows of a CSV file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.rows import SUBJECT, Row, differing

_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999", "#8c564b", "#bcbd22",
)  # fmt: skip


def draw_plot(rows: Sequence[Row], path: Path) -> Path:
    """Draw the median time over the tokens, both logarithmic, into a PNG file.

    A row of panels for each mode, and for each kernel, dtype and device where there are several; a column for each
    width of heads; a line for each provider. Of several batch sizes the largest is drawn.

    Raises:
        BenchmarkError: no row has a time, or the file cannot be written.
    """
    timed = [row for row in rows if row.median is not None]
    if not timed:
        raise BenchmarkError("There is nothing to draw: no row has a time.")
    from matplotlib.figure import Figure

    apart = differing(timed)
    lines = list(dict.fromkeys(_line(row, apart) for row in timed))
    widths = sorted({(row.heads, row.head_dim) for row in timed}, key=lambda each: each[0] * each[1])
    colours = dict(zip(dict.fromkeys(row.provider for row in timed), itertools.cycle(_COLOURS), strict=False))
    figure = Figure(figsize=(3.2 * len(widths) + 1.6, 2.4 * len(lines) + 0.8), dpi=90, layout="constrained")
    panels = figure.subplots(len(lines), len(widths), squeeze=False)
    for (row, line), (column, width) in itertools.product(enumerate(lines), enumerate(widths)):
        there = [each for each in timed if (_line(each, apart), each.heads, each.head_dim) == (line, *width)]
        panels[row][column].set_visible(bool(there))
        _panel(panels[row][column], there, colours)
        panels[row][column].set_title(f"{line}, {width[0]} heads of {width[1]}", fontsize=9)
    handles = [_handle(provider, colour) for provider, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right center", fontsize=8)
    shared = [getattr(timed[0], name) for name in SUBJECT if name not in apart]
    figure.suptitle(", ".join(shared), fontsize=10)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        figure.savefig(temporary, format="png", metadata={"Software": None})
        temporary.replace(path)
    except OSError as error:
        raise BenchmarkError(f"The plot cannot be written: {error}.") from error
    return path


def _line(row: Row, apart: Sequence[str]) -> str:
    """Which row of panels a time belongs to."""
    return "\n".join([*(getattr(row, name) for name in apart), row.mode])


def _panel(axes: Any, rows: Sequence[Row], colours: dict[str, str]) -> None:
    from matplotlib.ticker import LogFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens", fontsize=8)
    axes.set_ylabel("ms", fontsize=8)
    axes.tick_params(which="both", labelsize=7)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter(LogFormatter())
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(alpha=0.3)
    batch = max((row.batch for row in rows), default=0)
    for provider, colour in colours.items():
        points = sorted(
            (row.tokens, row.median)
            for row in rows
            if row.provider == provider and row.batch == batch and row.median is not None
        )
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, linewidth=1.2)


def _handle(provider: str, colour: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker="o", markersize=3, label=provider)
