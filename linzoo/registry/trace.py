"""Printing every hook call on stderr (``LINZOO_TRACE_PLUGINS=1``)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from linzoo.plugin import Entry
from linzoo.plugin.spec import shown


@dataclass
class Traced:
    """One call that is being traced; whoever makes it leaves the answer here."""

    answer: Any = None


Tracer = Callable[..., AbstractContextManager[Traced]]


@contextlib.contextmanager
def silent(hook: str, plugin: str, *arguments: Any) -> Iterator[Traced]:  # noqa: ARG001 (the shape of a tracer)
    """Trace nothing."""
    yield Traced()


@contextlib.contextmanager
def aloud(hook: str, plugin: str, *arguments: Any) -> Iterator[Traced]:
    """Print plugin, arguments, answer and duration of one call, whether it returns or raises."""
    traced = Traced()
    start = time.perf_counter()
    outcome = "interrupted"
    try:
        yield traced
        outcome = _answer(traced.answer)
    except BaseException as error:
        outcome = f"raised {shown(error)}"
        raise
    finally:
        ms = (time.perf_counter() - start) * 1000
        given = ", ".join(shown(argument) for argument in arguments)
        print(f"{plugin} {hook}({given}) -> {outcome}  {ms:.1f} ms", file=sys.stderr)  # noqa: T201


def _answer(answer: Any) -> str:
    """Entries by kind and id, since all of their fields would fill the screen."""
    if isinstance(answer, list) and answer and all(isinstance(each, Entry) for each in answer):
        return ", ".join(f"{type(each).__name__} '{each.id}'" for each in answer)
    return shown(answer)
