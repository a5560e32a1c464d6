"""Telling that memory ran out, whatever device ran out of it."""

from __future__ import annotations

_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device, or of the machine, is full."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
