"""Markdown out of other people's texts: they are shown as they are and mean nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from linzoo.validation.printable import printable

_SPECIAL = re.compile(r"[\\`*_\[\]#~]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "$": "&#36;"})
"""Where a backslash is not enough: HTML, the cells of tables, and the formulas that the Hub knows."""

_PLAIN = re.compile(r"[\w./:@=+, -]+")
_BACKTICKS = re.compile("`+")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def in_one_line(text: object) -> str:
    """A text without line breaks, and without what a page cannot hold."""
    return " ".join(printable(str(text)).split())


def escape(text: object) -> Markdown:
    """A text inside a line of Markdown; what is Markdown already stays.

    A block must not begin with it: a dash, a number with a dot and the like mean something there only.
    """
    if isinstance(text, Markdown):
        return text
    return Markdown(_SPECIAL.sub(r"\\\g<0>", in_one_line(text)).translate(_ENTITIES))


def code(text: object) -> Markdown:
    """A text inside a line, in a typewriter's letters. Between backticks nothing can be escaped, in HTML it can."""
    line = in_one_line(text)
    return Markdown(f"`{line}`" if _PLAIN.fullmatch(line) else f"<code>{escape(line)}</code>")


def fenced(text: str, language: str) -> Markdown:
    """A block of code, whose fence is longer than any in it."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{printable(text).rstrip()}\n{fence}")


def link(text: object, url: str) -> Markdown:
    """A link to a page or to a file of the repository; the text alone where it would run something."""
    if ":" in url and not url.startswith(("http://", "https://")):
        return escape(text)
    return Markdown(f"[{escape(text)}]({_in_brackets(url)})")


def image(text: object, path: str) -> Markdown:
    """A picture of the repository."""
    return Markdown(f"![{escape(text)}]({_in_brackets(path)})")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """A table."""
    lines = [head, ["---"] * len(head), *([escape(cell) for cell in row] for row in rows)]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def bullets(items: Iterable[object]) -> Markdown:
    """A list; no item begins with what means something at the beginning of a block."""
    return Markdown("\n".join(f"* {escape(item)}" for item in items))


def folded(summary: object, *blocks: str) -> Markdown:
    """Blocks that a reader opens with a click."""
    return Markdown("\n\n".join([f"<details>\n<summary>{escape(summary)}</summary>", *blocks, "</details>"]))


def _in_brackets(url: str) -> str:
    return quote(in_one_line(url), safe="/:?#=&%@+,;~!")
