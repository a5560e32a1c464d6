"""Which checks a suite has, in which order."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, get_args

from linzoo.errors import UsageError
from linzoo.plugin import Check

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry

Suite = Literal["quick", "quality", "speed", "full"]
SUITES: tuple[str, ...] = get_args(Suite)


def checks_of(suite: str, registry: Registry) -> list[Registered[Check]]:
    """The checks of a suite: gates first, then those of ``quick``, which every suite begins with, then the others.

    Raises:
        UsageError: there is no such suite.
    """
    if suite not in SUITES:
        raise UsageError(f"there is no suite '{suite}'; there are: {', '.join(SUITES)}")
    wanted = set(SUITES) if suite == "full" else {"quick", suite}
    chosen = [each for each in registry.checks if wanted.intersection(each.value.suites)]
    return sorted(chosen, key=lambda each: (not each.value.gate, "quick" not in each.value.suites))


def names_of(check: Check) -> tuple[str, ...]:
    """The measures that a check gives."""
    return check.measures or (check.id,)


def require_known(bars: Iterable[str], registry: Registry) -> None:
    """Refuse bars for measures that no check gives.

    Raises:
        UsageError: there is one.
    """
    known = [name for each in registry.checks for name in names_of(each.value)]
    for name in bars:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(sorted(known))}"
            raise UsageError(f"--bar {name}: no check measures that; {hint}")
