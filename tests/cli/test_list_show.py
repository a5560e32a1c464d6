"""``linzoo list`` and ``linzoo show``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from dists import Site, mixer, variant, variants

from linzoo.cli.list import KIND_NAMES
from linzoo.cli.main import main
from linzoo.registry.kinds import KINDS


def linzoo(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_kinds_on_the_command_line_are_those_of_the_registry() -> None:
    assert tuple(kind.name for kind in KINDS) == KIND_NAMES


def test_list_has_a_line_for_every_entry(site: Site) -> None:
    site.add("linzoo-kolors", variants(variant("kolors", summary="A family of its own.")))
    lines = linzoo("list", "variants").stdout.splitlines()
    assert lines[0].split() == ["ID", "WHAT", "IT", "IS", "FROM"]
    assert [line.split()[0] for line in lines[1:]] == sorted(line.split()[0] for line in lines[1:])
    (kolors,) = (line for line in lines if line.startswith("kolors "))
    assert kolors.split("  ")[-1] == "linzoo-kolors 1.0"
    assert "A family of its own." in kolors


def test_list_without_a_kind_lists_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINZOO_DISABLE_PLUGINS", "linzoo_checks")
    out = linzoo("list").stdout
    assert [line[:-1] for line in out.splitlines() if line.endswith(":")] == list(KIND_NAMES)
    assert "no checks" in out


def test_list_json(site: Site) -> None:
    site.add("linzoo-a", mixer("gla"))
    data = json.loads(linzoo("list", "mixers", "--json").stdout)
    assert data["schema"] == 1
    assert {
        "id": "gla",
        "full_id": "linzoo-a::gla",
        "summary": "",
        "plugin": "linzoo-a",
        "version": "1.0",
    } in data["mixers"]


def test_ambiguous_ids_are_listed_by_their_full_names(site: Site) -> None:
    site.add("linzoo-a", mixer("gla"))
    site.add("linzoo-b", mixer("gla"))
    out = linzoo("list", "mixers").stdout
    assert "linzoo-a::gla" in out
    assert "linzoo-b::gla" in out


@pytest.mark.parametrize("name", ["gla", "linzoo-a::gla"])
def test_show_prints_every_field(site: Site, name: str) -> None:
    site.add("linzoo-a", mixer("gla"))
    assert linzoo("show", name).stdout == (
        "mixer gla (from linzoo-a 1.0)\n  id: gla\n  summary: ''\n  module: null\n  tensors: null\n  options: {}\n\n"
    )


def test_show_json_has_every_kind_that_has_the_id(site: Site) -> None:
    site.add("linzoo-a", variants(variant("teacher", tiny={"block_out_channels": [32]})))
    entries = json.loads(linzoo("show", "teacher", "--json").stdout)["entries"]
    assert [entry["kind"] for entry in entries] == ["variants", "plans", "inits"]
    assert entries[0]["tiny"] == {"block_out_channels": [32]}
    assert entries[0]["plugin"] == "linzoo-a"
    (entry,) = json.loads(linzoo("show", "teacher", "--kind", "inits", "--json").stdout)["entries"]
    assert entry["build"] == {"target": "linzoo.init.teacher:build", "hint": ""}


def test_show_of_an_unknown_id_fails_and_helps(site: Site) -> None:
    site.add("linzoo-broken", "raise ImportError('no triton')")
    done = linzoo("show", "sofmax")
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "error: unknown id 'sofmax'\n  did you mean 'softmax'?\n" in done.stderr
    assert "plugin linzoo-broken 1.0 failed to load and may provide it" in done.stderr
    assert linzoo("show", "softmax", "--kind", "plans").exit_code == 1
    assert linzoo("show", "softmax", "--kind", "nonsense").exit_code == 2


def test_broken_plugins_are_one_line_on_stderr_and_none_with_q(site: Site) -> None:
    site.add("linzoo-broken", "raise ImportError('no triton')")
    done = linzoo("list", "mixers")
    assert done.exit_code == 0
    assert (
        "warning: plugin linzoo-broken 1.0 is left out: cannot be imported: ImportError: no triton [LZP101] "
        "(linzoo plugins show linzoo-broken)\n"
    ) in done.stderr
    assert linzoo("list", "mixers", "-q").stderr == ""


def test_a_one_file_plugin_is_loaded_when_named(site: Site) -> None:
    file = site.folder.parent / "mine_only.py"
    file.write_text(mixer("mine"))
    assert linzoo("show", "mine").exit_code == 1
    assert linzoo("show", "mine", "--plugin", str(file)).exit_code == 0
    assert linzoo("show", "mine", "--plugin", "no-such-file.py").exit_code == 2


def test_tables_are_drawn_on_a_terminal(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from linzoo.cli import tables

    monkeypatch.setattr(tables.sys.stdout.__class__, "isatty", lambda self: True, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    done = CliRunner().invoke(main, ["list", "mixers"])
    assert done.exit_code == 0, done.output
    assert "softmax" in done.stdout
