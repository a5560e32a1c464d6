"""What several checks say in the same way: lists of faults, and errors by layer with the worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from linzoo.plugin import Measure


def faults(name: str, title: str, found: Sequence[str], detail: str = "") -> Measure:
    """A measure that counts what is at fault, of which nothing may be."""
    return Measure(name=name, title=title, value=len(found), bar=0, detail=detail, culprits=tuple(found))


def worst_first(errors: Mapping[str, float]) -> list[str]:
    """Names by their errors, the largest first; one that is not a number is worse than any."""
    return sorted(errors, key=lambda name: (not math.isnan(errors[name]), -errors[name]))
