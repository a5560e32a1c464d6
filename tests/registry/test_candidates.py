"""Plugins are found by metadata, once each, and never in the current directory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dists import Site, mixer

from linzoo.plugin import LazyRef
from linzoo.registry import Registry
from linzoo.registry.candidates import builtin_candidates, file_candidates, installed_candidates


def names() -> list[str]:
    return [candidate.key for candidate in installed_candidates()]


def test_finding_imports_nothing_and_sorts_by_distribution(site: Site) -> None:
    site.add("linzoo-zebra", "raise AssertionError('imported')")
    site.add("Linzoo.Aardvark", "raise AssertionError('imported')", entry="x", target="linzoo_aardvark")
    assert names() == ["Linzoo.Aardvark:x", "linzoo-zebra:zebra"]
    assert "linzoo_zebra" not in sys.modules


def test_two_distributions_with_one_entry_point_name_both_load(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-a", mixer("a"), entry="sdxl")
    site.add("linzoo-b", mixer("b"), entry="sdxl")
    assert [each.full_id for each in build().mixers] == ["linzoo-a::a", "linzoo-b::b"]


def test_a_shadowed_copy_of_a_distribution_is_dropped(
    site: Site, build: Callable[..., Registry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("linzoo-kolors", mixer("old"), version="1.0")
    first = Site(tmp_path / "first")
    first.add("Linzoo_Kolors", mixer("new"), version="2.0", target="linzoo_kolors")
    first.folder.joinpath("Linzoo_Kolors.py").rename(first.folder / "linzoo_kolors.py")
    monkeypatch.syspath_prepend(first.folder)
    registry = build()
    assert [status.label for status in registry.plugins] == ["Linzoo_Kolors 2.0"]
    assert [each.value.id for each in registry.mixers] == ["new"]


def test_a_newer_copy_without_plugins_shadows_an_older_one_with(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("linzoo-kolors", mixer("old"), version="1.0")
    first = Site(tmp_path / "first")
    first.add("linzoo-kolors", "", version="2.0", group="console_scripts")
    monkeypatch.syspath_prepend(first.folder)
    assert names() == []


def test_the_current_directory_is_never_looked_at(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("linzoo-here", mixer("here"))
    assert names() == ["linzoo-here:here"]
    monkeypatch.chdir(site.folder)
    assert names() == []
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert names() == []


def test_damaged_metadata_of_others_do_no_harm(site: Site) -> None:
    site.add("linzoo-good", mixer("gla"))
    for name, file in (("half_removed", "RECORD"), ("not_text", "entry_points.txt")):
        folder = site.folder / f"{name}-1.0.dist-info"
        folder.mkdir()
        folder.joinpath(file).write_bytes(b"\xff\xfe[linzoo]")
    nameless = site.folder / "nameless-1.0.dist-info"
    nameless.mkdir()
    nameless.joinpath("entry_points.txt").write_text("[linzoo]\nx = y\n")
    misnamed = site.folder / "some_name-1.0.dist-info"
    misnamed.mkdir()
    misnamed.joinpath("METADATA").write_text("Name: another-name\n")
    misnamed.joinpath("entry_points.txt").write_text("[linzoo]\nx = y\n")
    assert names() == ["linzoo-good:good"]


def test_entry_points_that_cannot_be_read_are_a_broken_plugin(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-bad", mixer("bad"))
    site.add("linzoo-good", mixer("gla"))
    site.folder.joinpath("linzoo_bad-1.0.dist-info", "entry_points.txt").write_text(
        "[linzoo]\nno equals sign\n"
    )
    bad, good = build().plugins
    assert (bad.name, bad.state, good.state) == ("linzoo-bad", "broken", "ok")
    assert bad.problem.startswith("cannot be imported: ImportError: its metadata cannot be read: ")


def test_metadata_without_a_version_do_no_harm(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", mixer("gla"))
    site.folder.joinpath("linzoo_a-1.0.dist-info", "METADATA").write_text("Name: linzoo-a\n")
    assert [(status.label, status.state) for status in build().plugins] == [("linzoo-a", "ok")]


def test_a_module_may_make_what_it_holds_when_it_is_asked(site: Site, build: Callable[..., Registry]) -> None:
    lazy = "def __dir__(): return ['linzoo_mixers', 'Late']\ndef __getattr__(name): return 7\n"
    site.add("linzoo-a", mixer("gla") + lazy)
    assert [status.problem for status in build().plugins] == [""]


def test_a_current_directory_that_is_gone_does_no_harm(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("linzoo-good", mixer("gla"))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert names() == ["linzoo-good:good"]


def test_an_entry_point_that_names_no_module_is_a_broken_plugin(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-bad", "", target="not a target!")
    site.add("linzoo-good", mixer("gla"))
    assert [status.state for status in build().plugins] == ["broken", "ok"]


def test_a_plugin_may_be_an_object(site: Site, build: Callable[..., Registry]) -> None:
    body = (
        "from linzoo.plugin import *\n"
        "class Plugin:\n"
        "    @hookimpl\n"
        "    def linzoo_mixers(self): return [Mixer(id='gla', module=None, tensors=None)]\n"
        "plugin = Plugin()\n"
    )
    site.add("linzoo-object", body, target="linzoo_object:plugin")
    assert build().mixers["gla"].plugin.name == "linzoo-object"


def test_importing_a_sibling_with_the_prefix_is_no_unmarked_hook(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-b", mixer("b"))
    site.add("linzoo-a", "import linzoo_b\n" + mixer("a"))
    assert [status.state for status in build().plugins] == ["ok", "ok"]


def test_builtins_come_first_and_need_no_metadata(site: Site, build: Callable[..., Registry]) -> None:
    site.folder.joinpath("linzoo_own.py").write_text(mixer("own"))
    site.add("linzoo-a", mixer("a"))
    registry = build("linzoo_own")
    assert [(status.name, status.origin) for status in registry.plugins] == [
        ("linzoo_own", "built-in"),
        ("linzoo-a", "entry-point"),
    ]
    assert builtin_candidates(["linzoo_own"])[0].name == "own"


def test_a_file_is_a_plugin_when_it_is_named(
    site: Site, build: Callable[..., Registry], tmp_path: Path
) -> None:
    file = tmp_path / "my-variant.py"
    file.write_text(mixer("mine") + "SEVEN = 7\n")
    registry = build(paths=[file])
    assert registry.mixers["my_variant::mine"].plugin.origin == "file"
    assert LazyRef("my_variant:SEVEN").load() == 7
    file.write_text(mixer("again"))
    assert [each.value.id for each in build(paths=[file]).mixers] == ["again"]


def test_a_file_cannot_take_the_name_of_a_module(
    site: Site, build: Callable[..., Registry], tmp_path: Path
) -> None:
    file = tmp_path / "json.py"
    file.write_text(mixer("mine"))
    (status,) = build(paths=[file]).plugins
    assert "another module is called 'json' already; give the file another name" in status.problem


def test_a_file_that_is_named_twice_counts_once(
    site: Site, build: Callable[..., Registry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(mixer("mine"))
    (status,) = build(paths=["mine.py", tmp_path / "mine.py", "./mine.py"]).plugins
    assert (status.state, status.problems) == ("ok", [])


def test_two_files_of_one_name_do_not_disturb_each_other(
    site: Site, build: Callable[..., Registry], tmp_path: Path
) -> None:
    hook = "@hookimpl\ndef linzoo_before_push(plan): raise Veto('asked')\n"
    files = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(mixer(file.parent.name) + hook)
    registry = build(paths=files)
    assert [status.state for status in registry.plugins] == ["ok", "broken"]
    assert [each.value.id for each in registry.mixers] == ["a"]
    with pytest.raises(AttributeError, match="repo"):  # the first one's hook is still there, and vetoes
        registry.before_push(None)  # type: ignore[arg-type]


def test_a_file_that_fails_leaves_no_module_behind(
    site: Site, build: Callable[..., Registry], tmp_path: Path
) -> None:
    file = tmp_path / "half_done.py"
    file.write_text("raise ImportError('no')\n")
    (status,) = build(paths=[file]).plugins
    assert status.problem == "cannot be imported: ImportError: no [LZP101]"
    assert status.problems[0].where == f"{file}:1"
    assert "half_done" not in sys.modules
    assert file_candidates([file])[0].version == ""
