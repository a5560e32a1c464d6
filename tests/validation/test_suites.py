"""Which checks a suite has, in which order, and which bars there may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from validating import TINY, registry_with

from linzoo.errors import UsageError
from linzoo.registry import Registry, build_registry
from linzoo.validation.suites import SUITES, checks_of, names_of, require_known

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


def test_bars_are_for_measures_that_there_are(extended: Registry) -> None:
    require_known(["kd", "other", "z-quick-one"], extended)
    with pytest.raises(
        UsageError, match="--bar clip-scor: no check measures that; did you mean 'clip-score'"
    ):
        require_known(["kd", "clip-scor"], extended)
    with pytest.raises(
        UsageError, match=r"--bar xyzzy: .* there are: a-quality-one, a-slow-gate, attention-error"
    ):
        require_known(["xyzzy"], extended)
    with pytest.raises(
        UsageError, match="--bar structure: no check measures that"
    ):  # its measures have names
        require_known(["structure"], extended)
