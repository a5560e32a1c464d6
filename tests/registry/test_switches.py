"""The environment decides, before anything is imported, which plugins are loaded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dists import Site, mixer

from linzoo.registry import Registry
from linzoo.registry.candidates import Candidate, normalise
from linzoo.registry.switches import Switches


@pytest.fixture
def states(site: Site, build: Callable[..., Registry]) -> Callable[..., dict[str, str]]:
    site.folder.joinpath("linzoo_own.py").write_text(mixer("own"))
    site.add("linzoo-a", mixer("a"))
    site.add("linzoo-b", mixer("b"))

    def states(**env: str) -> dict[str, str]:
        registry = build("linzoo_own", env={f"LINZOO_{name}": value for name, value in env.items()})
        return {status.name: status.state for status in registry.plugins}

    return states


@pytest.mark.parametrize(
    ("env", "disabled"),
    [
        ({}, set()),
        ({"PLUGINS": ""}, {"linzoo-a", "linzoo-b"}),
        ({"PLUGINS": "Linzoo_A"}, {"linzoo-b"}),
        ({"PLUGINS": "a, linzoo-b"}, set()),
        ({"DISABLE_PLUGINS": ""}, set()),
        ({"DISABLE_PLUGINS": "b"}, {"linzoo-b"}),
        ({"DISABLE_PLUGINS": "linzoo-own,LINZOO.B"}, {"linzoo_own", "linzoo-b"}),
        ({"PLUGINS": "a", "DISABLE_PLUGINS": "a"}, {"linzoo-a", "linzoo-b"}),
    ],
)
def test_allow_and_deny(
    states: Callable[..., dict[str, str]], env: dict[str, str], disabled: set[str]
) -> None:
    assert {name for name, state in states(**env).items() if state == "disabled"} == disabled


def test_names_that_nobody_has_are_warned_about(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", mixer("a"))
    registry = build(env={"LINZOO_PLUGINS": "a,kolor", "LINZOO_DISABLE_PLUGINS": "b"})
    assert registry.warnings() == [
        "warning: LINZOO_PLUGINS names 'kolor', and no plugin has that name (linzoo plugins list)",
        "warning: LINZOO_DISABLE_PLUGINS names 'b', and no plugin has that name (linzoo plugins list)",
    ]


def test_a_plugin_that_adds_commands_alone_is_somebody(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", "", group="linzoo.commands")
    assert build(env={"LINZOO_DISABLE_PLUGINS": "linzoo-a"}).warnings() == []


def test_a_file_that_was_named_needs_no_permission() -> None:
    file = Candidate("mine", "mine", "", "file", "mine.py", load=lambda: None)
    assert Switches.read({"LINZOO_PLUGINS": ""}).admit(file)
    assert not Switches.read({"LINZOO_DISABLE_PLUGINS": "mine"}).admit(file)


def test_switches_are_off_for_the_usual_words() -> None:
    for word in ("", "0", "false", "No", " off "):
        assert not Switches.read({"LINZOO_STRICT_PLUGINS": word}).strict
    assert Switches.read({"LINZOO_STRICT_PLUGINS": "1", "LINZOO_TRACE_PLUGINS": "yes"}).trace


def test_names_are_spelled_as_packaging_spells_them() -> None:
    assert normalise("Linzoo_Kolors.XL") == "linzoo-kolors-xl"


def test_trace_prints_every_call(
    site: Site, build: Callable[..., Registry], capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("linzoo-a", mixer("a"))
    site.add("linzoo-b", mixer("b") + "    raise RuntimeError('boom')\n")
    build(env={"LINZOO_TRACE_PLUGINS": "1"})
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("linzoo-a:a linzoo_mixers() -> Mixer 'a'  ")
    assert first.endswith(" ms")
    assert second.startswith("linzoo-b:b linzoo_mixers() -> raised RuntimeError('boom')")
