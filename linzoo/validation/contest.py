"""What the times and the memory of teacher and student come to, as measures. No figure stands without the teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from linzoo_benchmarks.crossing import crossing

from linzoo.plugin import Chart, Measure
from linzoo.validation.contenders import TEACHER
from linzoo.validation.sweep import Row, Size

CALL = "UNet call"
"""The work that ratios are of."""

_TOKENS = "tokens of the largest replaced attention"

Figure = Callable[[Row], float | None]


@dataclass(frozen=True)
class _Duel:
    """The teacher's figure, and that of the student, folded or not, that is the lower."""

    teacher: float
    student: float


def measures(rows: Sequence[Row], native: Size) -> Iterator[Measure]:
    """What rows come to.

    Args:
        rows: of UNet calls (``what`` is :data:`CALL`) and of pictures.
        native: the size that the checkpoint is validated at.
    """
    calls = [row for row in rows if row.what == CALL]
    sizes = sorted({row.size for row in calls}, key=area)
    comparable = [size for size in sizes if _duel(calls, size, _ms)]
    largest = comparable[-1] if comparable else sizes[-1]
    beyond = [size for size in sizes if area(size) > area(largest)]
    duel = _duel(calls, native, _ms)
    yield Measure(
        name="speed-native",
        title="Times as fast as the teacher, a UNet call at the validated size",
        value=duel.teacher / duel.student if duel else None,
        better="higher",
        detail=_told(rows, native),
        skipped="" if duel else _why(calls, native),
        charts=_charts(rows, "Time", "milliseconds", _ms),
        data={"rows": [row.to_json() for row in rows]},
    )
    duel = _duel(calls, largest, _ms)
    yield Measure(
        name="speed-largest",
        title=f"Times as fast as the teacher, a UNet call at {shown(largest)}",
        value=duel.teacher / duel.student if duel else None,
        better="higher",
        detail="; ".join(_told(rows, size) for size in (largest, *beyond)),
        skipped="" if duel else _why(calls, largest),
    )
    duel = _duel(calls, largest, _memory)
    yield Measure(
        name="memory-largest",
        title=f"Memory over the teacher's, a UNet call at {shown(largest)}",
        value=duel.student / duel.teacher if duel else None,
        detail=f"{_compared(calls, largest, _memory, _megabytes)}; without the UNet's weights: "
        f"{_compared(calls, largest, _peak, _megabytes)}",
        skipped="" if duel else _why(calls, largest),
        charts=_charts(rows, "Peak memory, weights included,", "megabytes", _memory, 1e6),
    )
    yield _crossing(calls, comparable)


def _crossing(calls: Sequence[Row], comparable: Sequence[Size]) -> Measure:
    """The tokens from which the student is faster for good."""
    duels = {_tokens(calls, size): _duel(calls, size, _ms) for size in comparable}
    found = crossing(
        {tokens: duel.student for tokens, duel in duels.items() if duel},
        {tokens: duel.teacher for tokens, duel in duels.items() if duel},
    )
    value, skipped = (
        (found.tokens, "") if found else (None, "teacher and student were not both measured at any size")
    )
    detail = "; ".join(_told(calls, size) for size in dict.fromkeys([*comparable[:1], *comparable[-1:]]))
    if value is not None:
        scale = math.sqrt(value / _tokens(calls, comparable[-1]))
        width, height = (round(scale * side) for side in comparable[-1])
        detail = f"the student is faster {found}, which a picture of about {width}x{height} has; {detail}"
    elif found:
        skipped = f"the student is not faster up to {found.highest:,} tokens ({shown(comparable[-1])})"
    return Measure(
        name="speed-crossing",
        title="Tokens from which the student is faster, a UNet call",
        value=value,
        unit="tokens",
        detail=detail,
        skipped=skipped,
    )


def area(size: Size) -> int:
    """Pixels of a size."""
    return size[0] * size[1]


def shown(size: Size) -> str:
    """A size in words."""
    return f"{size[0]}x{size[1]}"


def _duel(calls: Sequence[Row], size: Size, figure: Figure) -> _Duel | None:
    """None unless the teacher was measured at this size, and a student."""
    found = {row.contender: value for row in calls if row.size == size and (value := figure(row)) is not None}
    teacher = found.pop(TEACHER, None)
    return None if teacher is None or not found else _Duel(teacher, min(found.values()))


def _why(calls: Sequence[Row], size: Size) -> str:
    """Why there is no duel."""
    mine = [row for row in calls if row.size == size]
    if not mine:
        return f"{shown(size)} is not among the sizes that were to be measured"
    return _told(mine, size) if any(row.note for row in mine) else "torch does not count this device's memory"


def _told(rows: Sequence[Row], size: Size) -> str:
    """What everybody took of a size, each kind of work in turn."""
    kinds = dict.fromkeys(row.what for row in rows if row.size == size)
    return "; ".join(
        f"{what} at {shown(size)}: " + _compared([row for row in rows if row.what == what], size, _ms, _time)
        for what in kinds
    )


def _compared(rows: Sequence[Row], size: Size, figure: Figure, words: Callable[[float], str]) -> str:
    """The teacher's figure, the student's and the folded student's, or why there is none."""
    mine = [row for row in rows if row.size == size]
    notes = {row.note for row in mine}
    if len(notes) == 1 and "" not in notes:
        return notes.pop()
    said = []
    for row in mine:
        value = figure(row)
        said.append(f"{row.contender} {words(value)}" if value is not None else f"{row.contender} {row.note}")
    return " / ".join(said)


def _charts(
    rows: Sequence[Row], of: str, unit: str, figure: Figure, divisor: float = 1.0
) -> tuple[Chart, ...]:
    """A chart for each kind of work that the teacher was measured at."""
    charts = []
    for what in dict.fromkeys(row.what for row in rows):
        series: dict[str, dict[str, float]] = {}
        for row in rows:
            value = figure(row)
            if row.what == what and value is not None:
                series.setdefault(row.contender, {})[str(row.tokens)] = value / divisor
        if TEACHER in series:
            charts.append(
                Chart(
                    title=f"{of} of a {what}",
                    kind="lines",
                    x=_TOKENS,
                    y=unit,
                    series=series,
                    logarithmic=True,
                )
            )
    return tuple(charts)


def _tokens(calls: Sequence[Row], size: Size) -> int:
    return next(row.tokens for row in calls if row.size == size)


def _ms(row: Row) -> float | None:
    return row.ms


def _peak(row: Row) -> float | None:
    return row.peak


def _memory(row: Row) -> float | None:
    return None if row.peak is None else row.peak + row.weights


def _time(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"


def _megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"
