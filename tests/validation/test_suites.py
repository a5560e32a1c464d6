"""Which checks a suite has, in which order, and which bars there may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from validating import TINY, registry_with

from linzoo.errors import PluginError, UsageError
from linzoo.registry import Registry, build_registry
from linzoo.validation.suites import SUITES, checks_of, names_of, require_known, unknown_bars

QUICK = ["structure", "backends", "exercised", "layout", "round-trip", "usage"]
QUALITY = ["distance", "distribution", "pictures", "prediction-type", "text"]


@pytest.fixture(scope="module")
def shipped() -> Registry:
    return build_registry(entry_points=False, env={})


@pytest.fixture
def extended(zoo: Registry, tmp_path: Path) -> Registry:
    """The built-in checks and a plugin's: a gate, two quick ones, and one that is in two suites."""
    run = {"run": "half"}
    return registry_with(
        tmp_path,
        {
            "a-quality-one": {**run, "suites": ("quality",)},
            "a-slow-gate": {**run, "suites": ("speed", "quality"), "gate": True},
            "z-gate": {**run, "gate": True, "measures": ("one", "other")},
            "z-quick-one": run,
        },
        (*TINY, "linzoo_checks"),
    )


def ids(suite: str, registry: Registry) -> list[str]:
    return [each.value.id for each in checks_of(suite, registry)]


@pytest.mark.parametrize(
    ("suite", "more"),
    [
        ("quick", []),
        ("quality", QUALITY),
        ("speed", ["speed"]),
        ("full", sorted([*QUALITY, "resolution", "speed"])),
    ],
)
def test_what_ships(shipped: Registry, suite: str, more: list[str]) -> None:
    assert ids(suite, shipped) == [*QUICK, *more]


def test_gates_come_first_and_quick_ones_before_the_rest(extended: Registry) -> None:
    assert ids("quick", extended) == ["structure", "z-gate", *QUICK[1:], "z-quick-one"]
    assert ids("speed", extended)[:3] == ["structure", "z-gate", "a-slow-gate"]
    assert ids("quality", extended) == [
        "structure",
        "z-gate",
        "a-slow-gate",
        *QUICK[1:],
        "z-quick-one",
        "a-quality-one",
        *QUALITY,
    ]


def test_full_has_all_checks_and_each_once(extended: Registry) -> None:
    assert sorted(ids("full", extended)) == sorted(each.value.id for each in extended.checks)


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_begins_with_quick(extended: Registry, suite: str) -> None:
    assert set(ids("quick", extended)) <= set(ids(suite, extended))


def test_an_unknown_suite(shipped: Registry) -> None:
    with pytest.raises(UsageError, match="no suite 'fast'; there are: quick, quality, speed, full"):
        checks_of("fast", shipped)


def test_a_check_without_names_gives_one_measure_of_its_own(extended: Registry) -> None:
    assert names_of(extended.checks["z-gate"].value) == ("one", "other")
    assert names_of(extended.checks["z-quick-one"].value) == ("z-quick-one",)


@pytest.mark.parametrize(
    ("suite", "bar", "says"),
    [
        ("quality", "clip-scor", "suite 'quality' does not measure that; did you mean 'clip-score'"),
        ("quick", "clip-score", "suite 'quick' does not measure that; there are: backends, "),
        ("quick", "structure", "suite 'quick' does not measure that"),  # its measures have names
    ],
)
def test_bars_are_for_what_the_suite_measures(shipped: Registry, suite: str, bar: str, says: str) -> None:
    checks = checks_of(suite, shipped)
    require_known(["misfits", "round-trip"], suite, checks)
    with pytest.raises(UsageError, match=f"--bar {bar}: {says}"):
        require_known(["misfits", bar], suite, checks)


def test_bars_of_recipes_and_variants_for_nothing_are_told(shipped: Registry) -> None:
    bars = {"kd": (0.1, "variant mini"), "kdd": (0.1, "distill recipe"), "xyzzy": (0.1, "variant mini")}
    first, second = unknown_bars(bars, shipped)
    assert first == (
        "bar 'kdd' of distill recipe is held against nothing, since no check measures that; did you mean 'kd'?"
    )
    assert "bar 'xyzzy' of variant mini" in second
    assert "there are: attention-error, backends" in second


def test_two_checks_that_give_one_measure(zoo: Registry, tmp_path: Path) -> None:
    twin = {"run": "half", "measures": ("kd",), "suites": ("quality",)}
    registry = registry_with(tmp_path, {"twin": twin}, (*TINY, "linzoo_checks"))
    assert "twin" not in ids("quick", registry)
    with pytest.raises(PluginError, match=r"'.*distance' and check '.*twin' both give the measure 'kd'"):
        checks_of("quality", registry)
