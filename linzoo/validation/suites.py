"""Which checks a suite has, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal, get_args

from linzoo.errors import PluginError, UsageError
from linzoo.plugin import Check

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry

Suite = Literal["quick", "quality", "speed", "full"]
SUITES: tuple[str, ...] = get_args(Suite)


def checks_of(suite: str, registry: Registry) -> list[Registered[Check]]:
    """The checks of a suite: gates first, then those of ``quick``, which every suite begins with, then the others.

    Raises:
        UsageError: there is no such suite.
        PluginError: two of its checks give a measure of one name.
    """
    if suite not in SUITES:
        raise UsageError(f"there is no suite '{suite}'; there are: {', '.join(SUITES)}")
    wanted = set(SUITES) if suite == "full" else {"quick", suite}
    chosen = [each for each in registry.checks if wanted.intersection(each.value.suites)]
    _require_distinct(chosen)
    return sorted(chosen, key=lambda each: (not each.value.gate, "quick" not in each.value.suites))


def draws(suite: str) -> bool:
    """Whether teacher and student draw pictures for it."""
    return suite in ("quality", "full")


def names_of(check: Check) -> tuple[str, ...]:
    """The measures that a check gives."""
    return check.measures or (check.id,)


def require_known(bars: Iterable[str], suite: str, checks: Sequence[Registered[Check]]) -> None:
    """Refuse bars that a suite would not hold.

    Raises:
        UsageError: there is one for a measure that none of its checks gives.
    """
    known = [name for each in checks for name in names_of(each.value)]
    for name in bars:
        if name not in known:
            raise UsageError(f"--bar {name}: suite '{suite}' does not measure that; {_hint(name, known)}")


def unknown_bars(bars: Mapping[str, tuple[float, str]], registry: Registry) -> list[str]:
    """What to say of bars that a recipe or a variant names for measures that no check gives."""
    known = [name for each in registry.checks for name in names_of(each.value)]
    return [
        f"bar '{name}' of {whose} is held against nothing, since no check measures that; {_hint(name, known)}"
        for name, (_, whose) in bars.items()
        if name not in known
    ]


def _hint(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(sorted(known))}"


def _require_distinct(checks: Iterable[Registered[Check]]) -> None:
    givers: dict[str, Registered[Check]] = {}
    for check in checks:
        for name in names_of(check.value):
            other = givers.setdefault(name, check)
            if other is not check:
                raise PluginError(
                    f"check '{other.full_id}' and check '{check.full_id}' both give the measure '{name}'; leave one plugin"
                    " out (LINZOO_DISABLE_PLUGINS)"
                )
