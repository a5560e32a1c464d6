"""Which implementation runs: argument, then context, then the environment variable LINZOO_KERNELS, then automatic."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

BACKENDS = ("auto", "reference", "torch", "compile", "triton")
VARIABLE = "LINZOO_KERNELS"

_in_context: ContextVar[str] = ContextVar("linzoo_kernels_backend", default="auto")


class BackendError(RuntimeError):
    """The backend that was asked for does not exist, or cannot run what it was given."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block, calls that name no backend of their own take this one."""
    token = _in_context.set(checked(name, "use_backend"))
    try:
        yield
    finally:
        _in_context.reset(token)


def checked(name: str, where: str) -> str:
    if name not in BACKENDS:
        raise BackendError(f"{where}: there is no backend {name!r}; there are {', '.join(BACKENDS)}.")
    return name


def requested(argument: str) -> str:
    """The backend asked for by argument, context or environment, in this order; else ``auto``."""
    if checked(argument, "backend") != "auto":
        return argument
    if (name := _in_context.get()) != "auto":
        return name
    return checked(os.environ.get(VARIABLE) or "auto", f"the environment variable {VARIABLE}")
