"""The charts of a report: drawn once, as SVG for the page and as PNG for a model card."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from linzoo.validation.printable import printable
from linzoo.validation.report.labels import short_names
from linzoo.validation.report.svg import inlined
from linzoo.validation.report.wording import figure

_INK, _FAINT, _RULE = "#1b2431", "#566072", "#dce1e8"
# Okabe and Ito's colours, which colour-blind people can tell apart, dark enough for white paper.
_SERIES = ("#0a6ca8", "#c25a00", "#0b7a5b", "#a3478b", "#7a6a00")
_OWN = {"student": _SERIES[0], "teacher": _SERIES[1]}  # the same in every chart
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v")
_VARIABLES = {
    _INK: "--ink",
    _FAINT: "--faint",
    _RULE: "--rule",
    **{colour: f"--series-{number}" for number, colour in enumerate(_SERIES, 1)},
}

_WIDTH = 4.2  # inches; 300 points, so that a letter of 9 points is one of 9 pixels on a phone
_STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib ships it
    "font.size": 9,
    "text.color": _INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.labelcolor": _FAINT,
    "axes.edgecolor": _FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "linzoo",  # the same drawing has the same bytes
}
_LARGEST = 1e100  # beyond it, axes overflow
_FEW_BARS = 8
_LEFT = 0.2
_SHORT = 9


def to_svg(chart: Mapping[str, Any], prefix: str) -> str:
    """A chart of ``report.json`` as an SVG element for a page that has the variables ``--ink``, ``--series-1``, …

    Args:
        chart: see :class:`linzoo.plugin.Chart`.
        prefix: what ids in it begin with, one for each chart of a page.
    """
    buffer = io.BytesIO()
    with _style():
        _drawn(chart, title="").savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return inlined(buffer.getvalue(), prefix=prefix, variables=_VARIABLES, label=printable(chart["title"]))


def to_png(chart: Mapping[str, Any]) -> bytes:
    """A chart of ``report.json`` as a PNG on white paper, with its title."""
    buffer = io.BytesIO()
    with _style():
        drawing = _drawn(chart, title=chart["title"])
        drawing.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # Names may have letters that the font has not; the page shows them, and a box stands for them in a PNG.
        warnings.filterwarnings("ignore", r"(?s)Glyph .* missing from font", UserWarning)
        yield


def _drawn(chart: Mapping[str, Any], title: str) -> Figure:
    series = {
        printable(name): {printable(place): _drawable(value) for place, value in points.items()}
        for name, points in chart["series"].items()
    }
    drawing = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
    axes = drawing.add_subplot()
    if chart["kind"] == "bars":
        handles = _bars(drawing, axes, series, _wrapped(chart["x"], 44), _wrapped(chart["y"], 36))
    else:
        handles = _lines(axes, series, chart["logarithmic"])
        axes.set_xlabel(_wrapped(chart["x"], 44))
        axes.set_ylabel(_wrapped(chart["y"], 36))
    if len(series) > 1:
        _legend(drawing, axes, handles, short_names(list(series)))
    if title:
        drawing.suptitle(_wrapped(title, 48), x=0.02, ha="left", fontsize=10, fontweight="bold")
    return drawing


def _legend(drawing: Figure, axes: Any, handles: list[Any], names: list[str]) -> None:
    """Above the axes, in as many columns as fit; the drawing grows by it."""
    columns = 1 if max(map(len, names)) > 14 else 2
    width, height = drawing.get_size_inches()
    drawing.set_size_inches(width, height + 0.18 * -(-len(names) // columns))
    axes.legend(
        handles,
        [f"\u200b{name}" for name in names],  # what begins with "_" would be left out
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        fontsize=8.5,
        borderaxespad=0.2,
    )


def _bars(drawing: Figure, axes: Any, series: Mapping[str, Mapping[str, float]], x: str, y: str) -> list[Any]:
    """Bars in groups: lying where names are many or long, the first on top; else standing."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(series.values())))
    labels = short_names(names)
    lying = len(names) > _FEW_BARS or max(map(len, labels)) > _SHORT
    thick = 0.78 / len(series)
    draw = axes.barh if lying else axes.bar
    handles = []
    for number, (points, colour) in enumerate(zip(series.values(), _colours(series), strict=True)):
        places = [at + (number - (len(series) - 1) / 2) * thick for at in range(len(names))]
        values = [points.get(name, math.nan) for name in names]
        handles.append(draw(places, values, thick * 0.94, color=colour))
        if len(series) == 1 and len(names) <= 24:
            texts = [figure(value) if math.isfinite(value) else "not a number" for value in values]
            axes.bar_label(handles[-1], texts, padding=2, fontsize=8)
    axes.margins(**{"x" if lying else "y": 0.16})
    if lying:
        drawing.set_size_inches(_WIDTH, 0.75 + len(names) * max(0.19, 0.12 * len(series)))
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set(xlabel=y, ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        low, high = axes.get_xlim()
        if low < 0:  # the figures of bars to the left need room before the names
            axes.set_xlim(low - _LEFT * (high - low), high)
    else:
        axes.set_xticks(range(len(names)), labels)
        axes.set(xlabel=x, ylabel=y)
    axes.grid(False, axis="y" if lying else "x")
    axes.tick_params(axis="y" if lying else "x", length=0)
    return handles


def _lines(axes: Any, series: Mapping[str, Mapping[str, float]], logarithmic: bool) -> list[Any]:
    """A line for each series; a gap where a value is missing, and where a logarithm would be."""
    handles = []
    looks = zip(_colours(series), itertools.cycle(_DASHES), itertools.cycle(_MARKERS), strict=False)
    seen: list[tuple[float, float]] = []
    for points, (colour, dashes, marker) in zip(series.values(), looks, strict=False):
        line = sorted((float(place), value) for place, value in points.items())
        line = [point for point in line if math.isfinite(point[0]) and abs(point[0]) < _LARGEST]
        if logarithmic:
            line = [(at, value if value > 0 else math.nan) for at, value in line if at > 0]
        few = len(line) <= 40
        handles += axes.plot(
            [at for at, _ in line],
            [value for _, value in line],
            color=colour,
            linestyle=dashes,
            linewidth=1.6,
            marker=marker if few else None,
            markersize=3.5,
        )
        seen += [point for point in line if math.isfinite(point[1])]
    if logarithmic and seen:
        axes.set(xscale="log", yscale="log")
        places, values = ([point[side] for point in seen] for side in (0, 1))
        _logarithmic_ticks(axes.xaxis, min(places), max(places))
        _logarithmic_ticks(axes.yaxis, min(values), max(values))
        if _fit_side_by_side(places):
            axes.xaxis.set_major_locator(FixedLocator(sorted(set(places))))
    return handles


def _logarithmic_ticks(axis: Any, lowest: float, highest: float) -> None:
    """Plain numbers: matplotlib's own are formulas, and few where an axis spans less than a power of ten."""
    decades = math.log10(highest) - math.log10(lowest)
    if decades < 1:
        axis.set_major_locator(MaxNLocator(4))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,), numticks=6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: figure(value)))


def _fit_side_by_side(places: list[float]) -> bool:
    """The measured places themselves are the ticks where they are few and far enough from one another."""
    logarithms = [math.log10(place) for place in sorted(set(places))]
    gaps = [right - left for left, right in itertools.pairwise(logarithms)]
    return len(logarithms) <= 6 and all(gap >= (logarithms[-1] - logarithms[0]) / 8 for gap in gaps)


def _drawable(value: Any) -> float:
    drawable = isinstance(value, int | float) and math.isfinite(value) and abs(value) < _LARGEST
    return float(value) if drawable else math.nan


def _colours(names: Iterable[str]) -> list[str]:
    """A colour for each series: its own, or the next that is nobody's."""
    names = list(names)
    free = itertools.cycle([colour for colour in _SERIES if colour not in {_OWN.get(name) for name in names}])
    return [_OWN.get(name) or next(free) for name in names]


def _wrapped(text: str, letters: int) -> str:
    return "\n".join(textwrap.wrap(printable(text), letters, max_lines=3, placeholder=" …"))
