"""What a run tells people while it works: a bar on a terminal, else a line about every minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta

Advance = Callable[[int, Mapping[str, float | str]], None]
"""Told how many more units of work are done, and the figures to show."""

_HEARTBEAT = 60.0
_LONGEST = 40


class Progress:
    """Says nothing. What speaks is :class:`Bars` and :class:`Heartbeats`."""

    def say(self, text: str) -> None:
        """Tell one thing."""

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:  # noqa: ARG002
        """Follow a piece of work of ``total`` units, 0 where nobody knows, ``done`` of which were done earlier."""
        yield lambda count, figures: None


def open_progress(*, quiet: bool) -> Progress:
    """What fits the run: bars where stderr is a terminal, heartbeats where not, nothing if it is to be quiet."""
    if quiet:
        return Progress()
    return Bars() if sys.stderr.isatty() else Heartbeats()


class Bars(Progress):
    """Progress bars with the remaining time on stderr."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Show a bar."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[figures]}"),
        )
        with progress.Progress(*columns, console=self._console) as bar:
            task = bar.add_task(title, total=total or None, completed=done, figures="")

            def advance(count: int, figures: Mapping[str, float | str]) -> None:
                bar.update(task, advance=count, figures=_shown(figures))

            yield advance


class Heartbeats(Progress):
    """A line on stderr about every minute, for logs.

    Args:
        clock: seconds, as ``time.monotonic`` gives them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def task(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Print a line at the beginning, about every minute, and at the end."""
        began = spoke = self._clock()
        now, shown = done, ""
        of = f"/{total}" if total else ""
        self.say(f"{title}: {done}{of}")

        def advance(count: int, figures: Mapping[str, float | str]) -> None:
            nonlocal now, shown, spoke
            now, shown = now + count, _shown(figures)
            time_now = self._clock()
            if time_now - spoke >= _HEARTBEAT:
                spoke = time_now
                seconds = (time_now - began) / max(1, now - done) * (total - now)
                left = f", {timedelta(seconds=round(seconds))} left" if total else ""
                self.say(f"{title}: {now}{of}{left}  {shown}".rstrip())

        yield advance
        took = timedelta(seconds=round(self._clock() - began))
        self.say(f"{title}: {now}{of} in {took}  {shown}".rstrip())


@contextmanager
def counting(progress: Progress, title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Follow work that tells how many are done, of how many, and the last one's name; a new total is a new task."""
    with ExitStack() as stack:
        advance: Advance | None = None
        last: tuple[int | None, int] = (None, 0)

        def told(done: int, total: int | None, name: str) -> None:
            nonlocal advance, last
            if advance is None or total != last[0] or done < last[1]:
                stack.close()
                advance = stack.enter_context(progress.task(title, total or 0))
                last = (total, 0)
            advance(done - last[1], {"last": name})
            last = (total, done)

        yield told


def _shown(figures: Mapping[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value[:_LONGEST] if isinstance(value, str) else f'{value:.4g}'}"
        for name, value in figures.items()
    )
