"""Ctrl-C and SIGTERM: the step that is under way is finished and saved, and what is not a step is left at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from linzoo.distillation.errors import DistillationError


class Interruption:
    """What has come, while signals are noted; see :func:`noting_signals`.

    Attributes:
        came: the name of the first signal; None while there is none.
    """

    def __init__(self) -> None:
        self.came: str | None = None


@contextmanager
def noting_signals(say: Callable[[str], None]) -> Iterator[Interruption]:
    """Note the first SIGINT or SIGTERM inside the block, and leave it at once at the second.

    Args:
        say: told of the first.
    """
    interruption = Interruption()

    def note(number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if interruption.came is not None:
            raise KeyboardInterrupt(name)
        interruption.came = name
        say(f"{name}: finishing this step and saving; once more stops at once, without saving")

    with _handled(note):
        yield interruption


@contextmanager
def explain_signals() -> Iterator[None]:
    """Turn SIGINT and SIGTERM, where nothing inside the block notes them, into an error that says how to go on.

    Raises:
        DistillationError: one of them came.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    with _handled(stop):
        try:
            yield
        except KeyboardInterrupt as interrupt:
            raise DistillationError(
                f"stopped at once by {interrupt}; what was encoded and saved is kept, and the same command with --resume"
                " latest goes on from there"
            ) from interrupt


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle both signals; outside the main thread, where Python has none, do nothing."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
