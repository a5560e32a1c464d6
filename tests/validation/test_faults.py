"""The worst comes first, and what is no number is the worst."""

from __future__ import annotations

import math

from linzoo.validation.checks.faults import faults, worst_first


def test_what_is_no_number_is_worse_than_any() -> None:
    errors = {"a": 0.1, "b": math.nan, "c": math.inf, "d": 0.3}
    assert worst_first(errors) == ["b", "c", "d", "a"]
    assert worst_first({}) == []


def test_faults_are_counted_and_none_may_be() -> None:
    measure = faults("files", "Files", ["a", "b"], "two")
    assert (measure.value, measure.bar, measure.culprits, measure.detail) == (2, 0, ("a", "b"), "two")
    assert faults("files", "Files", []).value == 0
