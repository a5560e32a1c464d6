"""A bar is held against a value, whichever way is better; the strongest bar counts."""

from __future__ import annotations

import json
import math

import pytest

from linzoo.plugin import Measure
from linzoo.validation.verdicts import judge


def measure(value: float | None, **fields: object) -> Measure:
    skipped = "no network" if value is None else ""
    return Measure(name="kd", title="KD", value=value, skipped=skipped, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "better", "bar", "verdict"),
    [
        (1.0, "lower", 1.0, "passed"),
        (1.1, "lower", 1.0, "failed"),
        (1.0, "higher", 1.0, "passed"),
        (0.9, "higher", 1.0, "failed"),
        (0.9, "higher", None, "measured"),
        (None, "lower", 1.0, "skipped"),
        (math.nan, "lower", 1.0, "failed"),
        (math.nan, "higher", 1.0, "failed"),
        (math.nan, "lower", None, "failed"),
        (math.inf, "lower", 1.0, "failed"),
    ],
)
def test_verdicts(value: float | None, better: str, bar: float | None, verdict: str) -> None:
    assert judge("distance", measure(value, better=better, bar=bar), {}).verdict == verdict


def test_a_named_bar_goes_before_the_measures_own_and_says_whose_it_is() -> None:
    judged = judge("distance", measure(0.5, bar=1.0), {"kd": (0.1, "variant mini")})
    assert (judged.bar, judged.bar_from, judged.verdict) == (0.1, "variant mini", "failed")
    own = judge("distance", measure(0.5, bar=1.0), {"other": (0.1, "variant mini")})
    assert (own.bar, own.bar_from, own.verdict) == (1.0, "linzoo", "passed")


def test_a_bar_that_the_user_names_is_held_or_fails() -> None:
    assert judge("distance", measure(None), {"kd": (0.1, "--bar")}).verdict == "failed"
    assert judge("distance", measure(None), {"kd": (0.1, "variant mini")}).verdict == "skipped"


def test_a_plugins_own_bar_is_its_own() -> None:
    assert judge("seams", measure(0.5, bar=1.0), {}, "plugin seams 1.0").bar_from == "plugin seams 1.0"
    assert judge("seams", measure(0.5), {}, "plugin seams 1.0").bar_from == ""


def test_json_has_no_words_for_what_is_not_finite() -> None:
    document = judge("distance", measure(math.nan, bar=1.0, culprits=("mid",)), {}).to_json()
    assert document["value"] is None
    assert (document["check"], document["verdict"], document["culprits"]) == ("distance", "failed", ["mid"])
    json.dumps(document, allow_nan=False)
