"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


class Bar:
    """A progress bar on stderr: `what`, a bar, done/total, time left, and a note beside it."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(what, total=total, completed=done, note="")

    def show(self, done: int, note: str = "") -> None:
        """Move the bar to `done` and set the note."""
        self._progress.update(self._task, completed=done, note=note)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def track(items: Iterable[T], what: str, *, total: int) -> Iterator[T]:
    """Yield `items` under a progress bar."""
    with Bar(what, total) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.show(done)
