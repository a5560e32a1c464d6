"""A broken plugin never takes the tool, or another plugin, down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dists import HEAD, Site, mixer, variant, variants

from linzoo.registry import Registry

HOOK = HEAD + "@hookimpl\ndef linzoo_mixers():\n    "
PANIC = "class PanicException(BaseException): pass\n"  # what an extension written in Rust raises
BROKEN = {
    "import-error": ("raise ImportError('no triton')", "LZP101"),
    "syntax-error": ("def broken(:\n", "LZP101"),
    "system-exit": ("raise SystemExit(3)", "LZP102"),
    "misspelled-hook": (mixer("m").replace("linzoo_mixers", "linzoo_mixer"), "LZP203"),
    "unmarked-hook": (mixer("m").replace("@hookimpl\n", ""), "LZP202"),
    "unknown-argument": (mixer("m").replace("linzoo_mixers()", "linzoo_mixers(nope)"), "LZP204"),
    "hook-raises": (HOOK + "raise RuntimeError('boom')\n", "LZP308"),
    "hook-exits": (HOOK + "raise SystemExit\n", "LZP102"),
    "half-finished": (mixer("half") + "    raise RuntimeError('late')\n", "LZP308"),
    "wrong-type": (HOOK + "return ['sdxl']\n", "LZP302"),
    "single-object": (mixer("m").replace("yield", "return"), "LZP301"),
    "returns-nothing": (HOOK + "pass\n", "LZP301"),
    "bad-id": (mixer("SD XL"), "LZP303"),
    "misspelled-field": (HOOK + "yield Mixer(id='m', modul=None)\n", "LZP308"),
    "panics": (PANIC + "raise PanicException('index out of bounds')\n", "LZP101"),
    "hook-panics": (PANIC + HOOK + "raise PanicException('index out of bounds')\n", "LZP308"),
    "cannot-say-why": ("class E(Exception):\n    def __str__(self): return 1 / 0\nraise E\n", "LZP101"),
    "exits-with-a-story": ("raise SystemExit('once upon\\na time')", "LZP102"),
    "spec-error-of-its-own": (HEAD + "raise SpecError('no', 'LZP999')\n", "LZP307"),
    "unchecked-subclass": (
        HEAD + "class Loose(Mixer):\n    def __post_init__(self): pass\n"
        "@hookimpl\ndef linzoo_mixers(): return [Loose(id=['m'], module=None, tensors=None)]\n",
        "LZP303",
    ),
    "never-ends": (HOOK + "while True: yield Mixer(id='m', module=None, tensors=None)\n", "LZP304"),
    "never-asked": (HEAD + "@hookimpl\ndef linzoo_before_push(plan=None): return\n", "LZP204"),
    "keyword-only": (HEAD + "@hookimpl\ndef linzoo_before_push(*, plan): return\n", "LZP204"),
    "dangling": (variants(variant("v", refines="nowhere")), "LZP401"),
}


def test_one_good_plugin_among_all_broken_ones_works(site: Site, build: Callable[..., Registry]) -> None:
    for name, (body, _) in BROKEN.items():
        site.add(f"linzoo-{name}", body)
    site.add("linzoo-good", mixer("gla"))
    registry = build("linzoo_mixers")
    states = {status.name: status.state for status in registry.plugins}
    assert [name for name, state in states.items() if state == "ok"] == ["linzoo_mixers", "linzoo-good"]
    assert [each.value.id for each in registry.mixers] == ["generalized-linear", "gla", "softmax"]
    codes = {status.name: status.problems[0].code for status in registry.plugins if status.problems}
    assert codes == {f"linzoo-{name}": code for name, (_, code) in BROKEN.items()}
    lines = registry.warnings()
    assert len(lines) == len(BROKEN)
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_plugin_leaves_the_good_one_alone(
    site: Site, build: Callable[..., Registry], name: str
) -> None:
    body, code = BROKEN[name]
    site.add("linzoo-broken", body)
    site.add("linzoo-good", mixer("gla"))
    registry = build("linzoo_mixers")
    assert registry.mixers["gla"].plugin.label == "linzoo-good 1.0"
    (line,) = registry.warnings()
    assert line.startswith("warning: plugin linzoo-broken 1.0 is left out: ")
    assert line.endswith(f"[{code}] (linzoo plugins show linzoo-broken)")


def test_command_line_survives_all_of_them(site: Site) -> None:
    for name, (body, _) in BROKEN.items():
        site.add(f"linzoo-{name}", body)
    site.add("linzoo-good", mixer("gla"))
    done = linzoo(site, "list", "mixers", "--json")
    assert done.returncode == 0, done.stderr
    assert "gla" in {each["id"] for each in json.loads(done.stdout)["mixers"]}
    assert sum(line.startswith("warning: plugin linzoo-") for line in done.stderr.splitlines()) == len(BROKEN)
    assert "Traceback" not in done.stderr


def test_plugins_are_blocked_before_they_are_imported(site: Site) -> None:
    """The module ends the process at once, so that nothing but not importing it helps."""
    site.add("linzoo-deadly", "import os\nos._exit(9)\n")
    assert linzoo(site, "plugins", "list").returncode == 9
    for switch in ({"LINZOO_DISABLE_PLUGINS": "Linzoo_Deadly"}, {"LINZOO_PLUGINS": ""}):
        done = linzoo(site, "plugins", "list", "--json", **switch)
        assert done.returncode == 0
        states = {each["name"]: each["state"] for each in json.loads(done.stdout)["plugins"]}
        assert states["linzoo-deadly"] == "disabled"


def test_all_entries_of_a_plugin_count_or_none(site: Site, build: Callable[..., Registry]) -> None:
    site.add(
        "linzoo-half",
        mixer("whole") + "@hookimpl\ndef linzoo_checks():\n    yield Check(id='BAD', run=None)\n",
    )
    registry = build()
    assert len(registry.mixers) == 0
    assert registry.plugins_called("linzoo-half")[0].provides == {}


def test_hooks_of_a_plugin_that_is_left_out_are_never_called(
    site: Site, build: Callable[..., Registry], request: pytest.FixtureRequest
) -> None:
    body = variants(variant("v", refines="nowhere"))
    site.add("linzoo-late", body + "@hookimpl\ndef linzoo_before_push(plan): raise Veto('never asked')\n")
    registry = build("linzoo_mixers")
    assert registry.plugins_called("linzoo-late")[0].state == "broken"
    registry.before_push(None)  # type: ignore[arg-type]


def test_what_builds_on_a_broken_plugin_is_left_out_with_it(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-base", variants(variant("base")) + "raise ImportError('gone')\n")
    site.add("linzoo-middle", variants(variant("middle", refines="base")))
    site.add("linzoo-top", variants(variant("top", refines="middle")))
    site.add("linzoo-else", variants(variant("else")))
    registry = build("linzoo_mixers")
    assert [each.value.id for each in registry.variants] == ["else"]
    middle = registry.plugins_called("linzoo-middle")[0].problems[0]
    assert middle.message == "variant 'middle' names the variant 'base', which no plugin provides"
    assert "plugin linzoo-base 1.0 failed to load and may provide it" in middle.remedy


def test_a_requirement_that_makes_no_sense_is_passed_over(site: Site, build: Callable[..., Registry]) -> None:
    lines = ["linzoo>=99; os_name ~= 'x'", "linzoo>=99; nonsense == 'x'", "linzoo ??", "linzoo>=98"]
    site.add("linzoo-a", "raise ImportError('no')\n", requires=lines)
    assert build().plugins[0].problem.startswith("needs linzoo>=98, and this is linzoo ")


def test_a_plugin_that_lies_in_a_folder_like_our_own_is_still_pointed_at(
    site: Site, build: Callable[..., Registry], tmp_path: Path
) -> None:
    file = tmp_path / "linzoo" / "plugin" / "mine.py"
    file.parent.mkdir(parents=True)
    file.write_text("1 / 0\n")
    assert build(paths=[file]).plugins[0].problems[0].where == f"{file}:1"


def test_keyboard_interrupt_is_not_swallowed(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-slow", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        build()


def test_what_a_plugin_prints_stays_out_of_stdout(
    site: Site, build: Callable[..., Registry], capsys: pytest.CaptureFixture[str]
) -> None:
    site.add("linzoo-chatty", "print('hello from import')\n" + mixer("gla"))
    build()
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello from import\n")


def linzoo(site: Site, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from linzoo.cli.main import main; main(prog_name='linzoo')", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site.folder), *sys.path])} | env,
    )
