"""Rows of results as tables of text: times, crossing points, bars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from linzoo_benchmarks.bars import BAR_HEADS, judge, judged
from linzoo_benchmarks.crossing import crossing
from linzoo_benchmarks.rows import Row, differing, pairs
from linzoo_benchmarks.shapes import MODELS

Table = tuple[Sequence[str], list[Sequence[str]]]
HEADS = (
    "shape", "B x L x H x d", "mode", "provider", "ms", "q20 - q80", "host ms", "of copy", "error", "peak MB", "C·s/token", "launches",
    "note",
)  # fmt: skip


CROSSING_HEADS = ("level", "folded is faster than softmax", "for square images")


def tables(rows: Sequence[Row]) -> list[Table]:
    """All there is to say: the times, and where there are rows for it the crossing points and the bars."""
    apart = differing(rows)
    found: list[Table] = [
        ((*apart, *HEADS), [(*(getattr(row, name) for name in apart), *_cells(row)) for row in rows])
    ]
    crossings = _crossings(rows)
    if crossings:
        found.append((CROSSING_HEADS, crossings))
    if judged(rows):
        found.append((BAR_HEADS, [verdict.cells() for verdict in judge(rows)]))
    return found


def legend(rows: Sequence[Row]) -> str:
    """What the columns of layers mean; empty where there are none."""
    if all(row.units is None for row in rows):
        return ""
    return (
        "C·s/token: bytes that the operations read and write on a GPU, for each token, in units of C numbers of s bytes; "
        "counted, as launches are"
    )


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The same for programs, with numbers as they are."""
    return {
        "schema": 1,
        "rows": [asdict(row) for row in rows],
        "crossings": [dict(zip(CROSSING_HEADS, cells, strict=True)) for cells in _crossings(rows)],
        "bars": [verdict.facts() for verdict in judge(rows)] if judged(rows) else [],
    }


def _cells(row: Row) -> Sequence[str]:
    return (
        row.shape,
        f"{row.batch}x{row.tokens}x{row.heads}x{row.head_dim}",
        row.mode,
        row.provider,
        _number(row.median, ".4g"),
        f"{_number(row.q20, '.4g')} - {_number(row.q80, '.4g')}" if row.median is not None else "",
        _number(row.host, ".3g"),
        _number(row.copy_fraction, ".0%"),
        _number(row.error, ".1e"),
        _number(row.peak_mb, ",.0f" if (row.peak_mb or 0) >= 10 else ".1f"),
        _number(row.units, ".1f"),
        _number(row.launches, "d"),
        row.note,
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _crossings(rows: Sequence[Row]) -> list[Sequence[str]]:
    """For each level that was measured with the folded and the softmax layer, from where on folded is faster."""
    times: dict[tuple[str, str, int, int, int], tuple[dict[int, float], dict[int, float]]]
    times = defaultdict(lambda: ({}, {}))
    layers = [row for row in rows if row.kernel == "layer" and row.median is not None]
    for folded, softmax in pairs(layers, "folded", "softmax"):
        level = folded.device, folded.dtype, folded.batch, folded.heads, folded.head_dim
        for side, row in zip(times[level], (folded, softmax), strict=True):
            side[row.tokens] = row.median or 0
    found: list[Sequence[str]] = []
    for (device, dtype, batch, heads, head_dim), (linear, quadratic) in times.items():
        point = crossing(linear, quadratic)
        if point:
            name = f"B = {batch}, {heads} heads of {head_dim} (C = {heads * head_dim}), {dtype}, {device}"
            found.append((name, str(point), _as_pixels(point.tokens, heads, head_dim)))
    return found


def _as_pixels(tokens: float | None, heads: int, head_dim: int) -> str:
    if tokens is None:
        return ""
    sizes = [
        f"{model} level {index}: {at.edge * tokens**0.5:,.0f} px"
        for model, levels in MODELS.items()
        for index, at in enumerate(levels)
        if (at.heads, at.head_dim) == (heads, head_dim)
    ]
    return "; ".join(sizes)
