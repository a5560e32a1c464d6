"""What a measure comes to when a bar is held against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from linzoo.distillation.log import finite
from linzoo.plugin import Measure, thaw

USER = "--bar"
"""Who names a bar on the command line."""

Verdict = Literal["passed", "failed", "measured", "skipped"]


@dataclass(frozen=True)
class Judged:
    """A measure with its verdict.

    Attributes:
        check: id of the check that it is of.
        measure: what was measured.
        bar: what is held against it; None where nothing is.
        bar_from: who named the bar.
        verdict: ``measured`` where there is no bar, ``skipped`` where there is no value.
    """

    check: str
    measure: Measure
    bar: float | None
    bar_from: str
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """Plain data for the report. A number that is not finite, which JSON has no word for, is null."""
        own = {"bar": self.bar, "bar_from": self.bar_from, "verdict": self.verdict}
        document: dict[str, Any] = finite({"check": self.check, **thaw(self.measure), **own})
        return document


def judge(check: str, measure: Measure, bars: Mapping[str, tuple[float, str]], own: str = "linzoo") -> Judged:
    """Hold the strongest bar that there is against a measure.

    Args:
        check: id of the check that it is of.
        measure: what was measured.
        bars: what a bar is and who named it, by name of the measure.
        own: who provides the check, and the bar where nobody else names one.
    """
    bar, whose = bars.get(measure.name, (measure.bar, own if measure.bar is not None else ""))
    return Judged(check, measure, bar, whose, _verdict(measure, bar, asked=whose == USER))


def _verdict(measure: Measure, bar: float | None, *, asked: bool) -> Verdict:
    value = measure.value
    if value is None:  # whoever names a bar wants it held
        return "failed" if asked else "skipped"
    if math.isnan(value):
        return "failed"
    if bar is None:
        return "measured"
    reached = value <= bar if measure.better == "lower" else value >= bar
    return "passed" if reached else "failed"
