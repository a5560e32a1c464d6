"""Texts of others, fit to be written down."""

from __future__ import annotations

import re

# All that XML 1.0 has no place for (section 2.2, Char). Lone surrogates, which UTF-8 cannot hold, are among it.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """The text with a replacement character for each that neither XML nor UTF-8 can hold."""
    return _UNPRINTABLE.sub("\ufffd", text)
