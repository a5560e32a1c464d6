"""Time and memory of the same work over sizes, done by several contenders in turn, within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from linzoo_benchmarks.environment import free_bytes
from linzoo_benchmarks.timing import FEWEST, Task, Timing, peak_memory, round_robin

from linzoo.generate.memory import out_of_memory

Size = tuple[int, int]

SECONDS = 1.0
"""Each contender is timed for so long at each size, or ``FEWEST`` times if that takes longer."""

BUDGET = 60.0
"""Seconds that a size may take, all contenders together."""

CALLS = FEWEST + 2
"""How often each is called at least: once to warm up, then to be timed, and once for its memory."""

FULL = "out of memory"

_WATCHED = ("cpu", "cuda")
"""Devices whose memory torch counts, and whose calls ``round_robin`` waits for."""


@dataclass(frozen=True)
class Stopwatch:
    """What takes times (milliseconds) and memory (bytes); another one for tests."""

    times: Callable[[Mapping[str, Task], torch.device, float], Mapping[str, Timing]] = round_robin
    peak: Callable[[Task, torch.device], int] = peak_memory
    free: Callable[[torch.device], int] = free_bytes


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one contender took of one size.

    Attributes:
        what: the work, in a few words.
        size: width and height in pixels.
        tokens: of the largest attention that was replaced.
        contender: who did it.
        ms: median of the time; ``q20`` and ``q80`` are the fifths below and above. None where it was not measured.
        peak: bytes that it held at its peak beyond what was there; None where that was not measured.
        weights: bytes of the UNet's weights.
        note: why it was not measured.
    """

    what: str
    size: Size
    tokens: int
    contender: str
    ms: float | None = None
    q20: float | None = None
    q80: float | None = None
    peak: int | None = None
    weights: int
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report."""
        return asdict(self)


class _FullError(Exception):
    """Memory ran out for somebody."""

    def __init__(self, who: str) -> None:
        super().__init__(who)
        self.who = who


@dataclass
class Sweep:
    """Measures one kind of work, size after size, the smallest first.

    Attributes:
        what: the work, in a few words.
        device: where it is done.
        weights: bytes of each contender's UNet.
        stopwatch: what takes times and memory.
        rows: what was found so far.
    """

    what: str
    device: torch.device
    weights: Mapping[str, int]
    stopwatch: Stopwatch
    rows: list[Row] = field(default_factory=list)

    def measure(
        self,
        size: Size,
        tokens: int,
        tasks: Mapping[str, Task],
        *,
        at_least: Mapping[str, float] | None = None,
        out: Mapping[str, str] | None = None,
        always: bool = False,
    ) -> None:
        """Measure a size, unless it would take longer than :data:`BUDGET`.

        Who runs out of memory drops out of this size and the others go on. On a CPU, where that would be the end of the
        whole process, who is foreseen to run out drops out before.

        Args:
            size: width and height in pixels.
            tokens: of the largest attention that was replaced.
            tasks: the work, by contender.
            at_least: milliseconds that it is known to take, by contender.
            out: who does not take part, and why.
            always: measure however long it takes.
        """
        notes = dict(out or {})
        left = {who: task for who, task in tasks.items() if who not in notes}
        seconds = self._foreseen_seconds(tokens, left, at_least or {})
        if seconds > BUDGET and not always:
            note = f"left out: it would take about {seconds:.0f} s, and a size may take {BUDGET:.0f} s"
            notes |= dict.fromkeys(left, note)
        elif self.device.type == "cpu":
            notes |= self._foreseen_full(tokens, left)
        self._take(size, tokens, {who: task for who, task in left.items() if who not in notes}, notes)

    def ms(self, size: Size) -> dict[str, float]:
        """The milliseconds of a size, of those that were measured."""
        return {row.contender: row.ms for row in self.rows if row.size == size and row.ms is not None}

    def notes(self, size: Size) -> dict[str, str]:
        """Why the others were not."""
        return {row.contender: row.note for row in self.rows if row.size == size and row.note}

    def _foreseen_seconds(
        self, tokens: int, tasks: Mapping[str, Task], at_least: Mapping[str, float]
    ) -> float:
        foreseen = {who: predict(self._points(who, "ms"), tokens) or 0.0 for who in tasks}
        return CALLS * sum(max(ms, at_least.get(who, 0.0)) for who, ms in foreseen.items()) / 1000

    def _foreseen_full(self, tokens: int, tasks: Mapping[str, Task]) -> dict[str, str]:
        free = self.stopwatch.free(self.device)
        notes = {}
        for who in tasks:
            peak = predict(self._points(who, "peak"), tokens)
            if peak is not None and peak > free:
                notes[who] = f"{FULL}: it would take about {peak / 1e9:.1f} GB, and {free / 1e9:.1f} are free"
        return notes

    def _points(self, who: str, figure: str) -> list[tuple[int, float]]:
        mine = [(row.tokens, getattr(row, figure)) for row in self.rows if row.contender == who]
        return [(tokens, value) for tokens, value in mine if value is not None]

    def _take(self, size: Size, tokens: int, tasks: Mapping[str, Task], notes: dict[str, str]) -> None:
        left = {who: _attributed(who, task, self.device) for who, task in tasks.items()}
        times: Mapping[str, Timing] = {}
        peaks: dict[str, int] = {}
        while left:
            try:
                times = self.stopwatch.times(left, self.device, SECONDS)
                peaks = self._peaks(left)
                break
            except _FullError as error:
                del left[error.who]
                notes[error.who] = FULL
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        for who in self.weights:
            if who in left:
                self._add(size, tokens, who, times[who], peaks.get(who))
            elif who in notes:
                self._add(size, tokens, who, note=notes[who])

    def _peaks(self, tasks: Mapping[str, Task]) -> dict[str, int]:
        """The bytes of each, where torch counts them."""
        if self.device.type not in _WATCHED:
            return {}
        peaks = {}
        for who, task in tasks.items():
            task.prepare()  # now, so that no profile is on while a switch frees what was there before
            peaks[who] = self.stopwatch.peak(task, self.device)
        return peaks

    def _add(
        self,
        size: Size,
        tokens: int,
        who: str,
        time: Timing | None = None,
        peak: int | None = None,
        note: str = "",
    ) -> None:
        figures = {"ms": time.median, "q20": time.q20, "q80": time.q80} if time else {}
        self.rows.append(
            Row(
                what=self.what,
                size=size,
                tokens=tokens,
                contender=who,
                **figures,
                peak=peak,
                weights=self.weights[who],
                note=note,
            )
        )


def predict(points: Sequence[tuple[int, float]], tokens: int) -> float | None:
    """What comes to more tokens, by what came to fewer; None if nothing did.

    The line through the last two points, (tokens, value), on paper with logarithmic scales. Its slope is 1 to 2: a UNet
    takes a part for each token and a part for each pair of them. It is 1 where there is one point alone.
    """
    if not points:
        return None
    slope = 1.0
    last, value = points[-1]
    if len(points) > 1:
        before, less = points[-2]
        slope = min(2.0, max(1.0, math.log(value / less) / math.log(last / before)))
    return float(value * (tokens / last) ** slope)


def _attributed(who: str, task: Task, device: torch.device) -> Task:
    """The same task; that memory ran out says for whom."""

    def attempt(step: Callable[..., Any], *made: Any) -> Any:
        try:
            result = step(*made)
            if device.type not in _WATCHED:
                torch.accelerator.synchronize(device)  # such a device is timed by the host's clock
        except Exception as error:
            if not out_of_memory(error) and not out_of_memory(error.__cause__ or error):
                raise
        else:
            return result
        raise _FullError(who)  # here, where the error is gone, with its frames and the tensors in them

    return Task(lambda made: attempt(task.run, made), lambda: attempt(task.prepare))
