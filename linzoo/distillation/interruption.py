"""Ctrl-C and SIGTERM: the step that is under way is finished and saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class Interruption:
    """Within its ``with`` block the first SIGINT or SIGTERM is noted, and the second stops the program at once.

    Outside the main thread, where Python has no signals, it notes nothing.

    Args:
        say: told of the first signal.

    Attributes:
        came: the name of the signal that came; None while there is none.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.came: str | None = None
        self._say = say
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.came is not None:
            raise KeyboardInterrupt
        self.came = signal.Signals(number).name
        self._say(f"{self.came}: finishing this step and saving; once more stops at once, without saving")
