"""Figures and bars in words, the same on the page and in JUnit's file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "\u2013"
"""Stands where there is no value."""
_NO_BREAK = "\u00a0"
_DIGITS = 4


def figure(value: float, unit: str = "", *, apart_from: float | None = None) -> str:
    """A number as people read it, with its unit.

    Args:
        value: the number.
        unit: what stands behind it; may be empty.
        apart_from: a number that it must not look equal to unless it is: more digits are shown where they tell.
    """
    value += 0.0  # minus zero is zero
    digits = _DIGITS
    while (
        apart_from not in (None, value)
        and digits < 17
        and _rounded(value, digits) == _rounded(apart_from, digits)
    ):
        digits += 1
    text = _rounded(value, digits)
    return f"{text}{_NO_BREAK}{unit}" if unit else text


def value_of(measure: Mapping[str, Any]) -> str:
    """The value of a measure as ``report.json`` holds it; a dash where it was skipped."""
    value = measure["value"]
    if value is None:
        return NOTHING if measure["verdict"] == "skipped" else "not a number"
    return figure(value, measure["unit"], apart_from=measure["bar"])


def bar_of(measure: Mapping[str, Any]) -> str:
    """The bar of a measure, for example ``at most 0.02``; empty where there is none."""
    if measure["bar"] is None:
        return ""
    side = "at most" if measure["better"] == "lower" else "at least"
    return f"{side} {figure(measure['bar'], measure['unit'], apart_from=measure['value'])}"


def miss_of(measure: Mapping[str, Any]) -> str:
    """By how much a measure misses its bar, for example ``1.56 times the bar``; empty where that says nothing."""
    value, bar = measure["value"], measure["bar"]
    if value is None or not bar or value * bar <= 0:
        return ""
    times = value / bar
    if not math.isfinite(times) or not 0.001 <= times <= 1000:
        return ""
    return f"{figure(times, apart_from=1.0)} times the bar"


def plural(count: int, one: str, many: str) -> str:
    """``1 layer``, ``2 layers``."""
    return f"{count} {one if count == 1 else many}"


def _rounded(value: float | None, digits: int) -> str:
    if value is None or not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e9:
        decimals = max(0, digits - 1 - (math.floor(math.log10(abs(value))) if value else 0))
        text = f"{value:,.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"
