"""Long names made short enough for an axis."""

from __future__ import annotations

from collections.abc import Sequence

_LIMIT = 30


def short_names(names: Sequence[str]) -> list[str]:
    """Names for an axis, in the same order and as different as they were wherever that can be.

    Of dotted names the words that all of them have, and an end that all of them have, say nothing and go, but for a first
    word before a number: ``up_blocks.2.attentions.0.transformer_blocks.0.attn1`` becomes ``up_blocks.2.0`` among its
    like. What is still long loses its middle.
    """
    dotted = [name for name in names if "." in name and " " not in name]
    told = dict(zip(dotted, map(".".join, _telling([name.split(".") for name in dotted])), strict=True))
    shorter = [told.get(name, name) for name in names]
    if not all(shorter) or len(set(shorter)) < len(set(names)):
        shorter = list(names)
    return [_cut(name) for name in shorter]


def _telling(names: list[list[str]]) -> list[list[str]]:
    """The parts of dotted names without what all have in common; numbers stay where they differ."""
    if len(names) < 2:
        return names
    shared = {part for part in set(names[0]).intersection(*names) if not part.isdecimal()}
    kept = [[part for part in name if part not in shared] for name in names]
    if any(name[:1] and name[0].isdecimal() for name in kept):
        kept = [[first, *(part for part in rest if part not in shared)] for first, *rest in names]
    while all(len(name) > 1 for name in kept) and len({name[-1] for name in kept}) == 1:
        kept = [name[:-1] for name in kept]
    return kept


def _cut(name: str) -> str:
    name = " ".join(name.split())
    half = (_LIMIT - 1) // 2
    return name if len(name) <= _LIMIT else f"{name[:half].rstrip()}…{name[-half:].lstrip()}"
