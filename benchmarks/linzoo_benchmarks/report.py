"""Rows of results as tables of text: times, crossing points, bars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from linzoo_benchmarks.bars import BAR_HEADS, DTYPE, judge
from linzoo_benchmarks.crossing import crossing
from linzoo_benchmarks.rows import Row
from linzoo_benchmarks.shapes import MODELS

Table = tuple[Sequence[str], list[Sequence[str]]]
HEADS = (
    "shape", "B x L x H x d", "mode", "provider", "ms", "q20 - q80", "of copy", "error", "peak MB", "C·s/token", "launches",
    "note",
)  # fmt: skip


def tables(rows: Sequence[Row]) -> list[Table]:
    """All there is to say: the times, and where there are rows for it the crossing points and the bars."""
    found: list[Table] = [(HEADS, [_cells(row) for row in rows])]
    crossings = _crossings(rows)
    if crossings:
        found.append((("level", "folded is faster than softmax", "for square images"), crossings))
    if any(row.dtype == DTYPE and row.provider in ("triton", "folded") for row in rows):
        found.append((BAR_HEADS, [verdict.cells() for verdict in judge(rows)]))
    return found


def _cells(row: Row) -> Sequence[str]:
    return (
        row.shape,
        f"{row.batch}x{row.tokens}x{row.heads}x{row.head_dim}",
        row.mode,
        row.provider,
        _number(row.median, ".4g"),
        f"{_number(row.q20, '.4g')} - {_number(row.q80, '.4g')}" if row.median is not None else "",
        _number(row.copy_fraction, ".0%"),
        _number(row.error, ".1e"),
        _number(row.peak_mb, ",.0f"),
        _number(row.units, ".1f"),
        _number(row.launches, "d"),
        row.note,
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _crossings(rows: Sequence[Row]) -> list[Sequence[str]]:
    """For each level that was measured with the folded and the softmax layer, from where on folded is faster."""
    times: dict[tuple[int, int, int], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row.kernel == "layer" and row.mode == "forward" and row.median is not None:
            times[row.batch, row.heads, row.head_dim][row.provider][row.tokens] = row.median
    found: list[Sequence[str]] = []
    for (batch, heads, head_dim), by_provider in times.items():
        point = crossing(by_provider["folded"], by_provider["softmax"])
        if point:
            level = f"B = {batch}, {heads} heads of {head_dim} (C = {heads * head_dim})"
            found.append((level, str(point), _as_pixels(point.tokens, heads, head_dim)))
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
