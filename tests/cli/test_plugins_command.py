"""``linzoo plugins list|show|hooks``."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result
from dists import HEAD, Site, mixer

from linzoo._version import __version__
from linzoo.cli.main import main


def plugins(*arguments: str, **env: str) -> Result:
    return CliRunner().invoke(main, ["plugins", *arguments], env=env)


def test_list_shows_installed_plugins_with_state_and_problem(site: Site) -> None:
    site.add("linzoo-good", mixer("gla"))
    site.add("linzoo-broken", "raise ImportError('no triton')")
    site.add("linzoo-off", mixer("off"))
    rows = plugins("list", "-q", LINZOO_DISABLE_PLUGINS="off").stdout.splitlines()
    by_name = {row.split()[0]: row for row in rows}
    assert by_name["linzoo-good"].split()[1:6] == ["1.0", "entry-point", "ok", "1", "mixer"]
    assert "broken    cannot be imported: ImportError: no triton [LZP101]  " in by_name["linzoo-broken"]
    assert by_name["linzoo-off"].split()[3] == "disabled"


def test_list_all_shows_the_builtin_ones_too(site: Site) -> None:
    site.add("linzoo-good", mixer("gla"))
    assert "linzoo_mixers" not in plugins("list", "-q").stdout
    assert "linzoo_mixers" in plugins("list", "-q", "--all").stdout
    assert "built-in plugins that are not listed: " in plugins("list").stderr


def test_list_json(site: Site) -> None:
    site.add("linzoo-broken", "raise ImportError('no triton')", requires=["linzoo>=0"])
    data = json.loads(plugins("list", "--json").stdout)
    assert data["schema"] == 1
    (broken,) = (each for each in data["plugins"] if each["name"] == "linzoo-broken")
    assert broken.pop("ms") >= 0
    assert broken == {
        "name": "linzoo-broken",
        "version": "1.0",
        "origin": "entry-point",
        "entry_point": "broken",
        "target": "linzoo_broken",
        "requires": ["linzoo>=0"],
        "state": "broken",
        "hooks": [],
        "provides": {},
        "problems": [
            {
                "code": "LZP101",
                "plugin": "linzoo-broken 1.0",
                "message": "cannot be imported: ImportError: no triton",
                "where": f"{site.folder}/linzoo_broken.py:1",
                "remedy": "repair or uninstall it; LINZOO_DISABLE_PLUGINS=linzoo-broken leaves it out",
                "severity": "error",
            }
        ],
    }


def test_list_without_loading_imports_nothing(site: Site) -> None:
    site.add("linzoo-loud", "raise KeyboardInterrupt('imported')")
    data = json.loads(plugins("list", "--no-load", "--all", "--json").stdout)
    states = {each["name"]: each["state"] for each in data["plugins"]}
    assert states["linzoo-loud"] == states["linzoo_mixers"] == "not loaded"
    data = json.loads(plugins("list", "--no-load", "--json", LINZOO_PLUGINS="").stdout)
    assert {each["name"]: each["state"] for each in data["plugins"]}["linzoo-loud"] == "disabled"


def test_list_requirements_are_lines_for_pip(site: Site) -> None:
    site.add("linzoo-b", "raise KeyboardInterrupt('imported')", version="2.0")
    site.add("linzoo-a", mixer("a"))
    assert plugins("list", "--requirements").stdout == "linzoo-a==1.0\nlinzoo-b==2.0\n"


def test_a_conflict_is_a_state_of_its_own(site: Site) -> None:
    site.add("linzoo-a", mixer("gla"))
    site.add("linzoo-b", mixer("gla"))
    data = json.loads(plugins("list", "--json").stdout)
    states = {each["name"]: each["state"] for each in data["plugins"] if each["origin"] == "entry-point"}
    assert states == {"linzoo-a": "conflict", "linzoo-b": "conflict"}


def test_show_tells_everything_of_one_plugin(site: Site) -> None:
    site.add("linzoo-a", mixer("gla"), requires=["linzoo>=0", "einops"])
    lines = plugins("show", "a", "-q").stdout.splitlines()
    assert lines[0].startswith("linzoo-a 1.0 (entry-point, ok, ")
    assert lines[1:] == [
        "  loads: linzoo_a",
        "  requires: linzoo>=0, einops",
        "  hooks: linzoo_mixers",
        "  mixers: gla",
    ]


def test_show_of_a_broken_plugin_has_the_problem_in_full_and_with_v_the_traceback(site: Site) -> None:
    site.add("linzoo-broken", "import no_such_module")
    done = plugins("show", "linzoo-broken", "-q")
    assert done.exit_code == 0
    assert done.stdout.endswith(
        "error[LZP101] linzoo-broken 1.0: cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'\n"
        f"  --> {site.folder}/linzoo_broken.py:1\n"
        "  repair or uninstall it; LINZOO_DISABLE_PLUGINS=linzoo-broken leaves it out\n"
    )
    with_trace = plugins("show", "linzoo-broken", "-v").stdout
    assert "Traceback (most recent call last)" in with_trace
    assert with_trace.endswith("ModuleNotFoundError: No module named 'no_such_module'\n")
    assert plugins("show", "linzoo-nowhere").exit_code == 1


def test_show_json_is_a_row_of_list_json(site: Site) -> None:
    site.add("linzoo-a", mixer("gla"))
    data = json.loads(plugins("show", "linzoo-a", "--json").stdout)
    assert data["schema"] == 1
    assert [each["provides"] for each in data["plugins"]] == [{"mixers": ["gla"]}]


def test_show_shows_all_plugins_of_one_name(site: Site) -> None:
    """The broken one is what the user came for, and it may not be the first."""
    site.add("linzoo-kolors", "raise ImportError('no triton')", entry="mixers")
    lines = plugins("show", "mixers", "-q").stdout.splitlines()
    assert [line.split(" (")[0] for line in lines if " ms)" in line] == [
        f"linzoo_mixers {__version__}",
        "linzoo-kolors 1.0",
    ]
    assert "error[LZP101] linzoo-kolors 1.0: cannot be imported: ImportError: no triton" in lines


def test_list_tells_the_hooks_that_declare_nothing(site: Site) -> None:
    site.add("linzoo-legal", HEAD + "@hookimpl\ndef linzoo_before_push(plan): pass\n")
    (row,) = (row for row in plugins("list", "-q").stdout.splitlines() if row.startswith("linzoo-legal "))
    assert row.split()[3:-1] == ["ok", "linzoo_before_push"]


def test_hooks_are_listed_and_explained() -> None:
    listed = plugins("hooks").stdout
    assert "linzoo_load_teacher(request)" in listed
    explained = plugins("hooks", "linzoo_before_push").stdout
    assert explained.startswith("linzoo_before_push(plan: PushPlan) -> None\n\nLook at a push")
    assert 'raise Veto("no licence; pass --license")' in explained
    data = json.loads(plugins("hooks", "--json").stdout)["hooks"]
    assert [hook["declares"] for hook in data] == [True] * 7 + [False] * 4
    failed = plugins("hooks", "linzoo_variant")
    assert failed.exit_code == 1
    assert "there is no hook 'linzoo_variant'; there are: linzoo_variants," in failed.stderr


def test_strict_ends_the_command_with_the_problem_in_full(site: Site) -> None:
    site.add("linzoo-broken", "raise ImportError('no triton')")
    done = plugins("list", LINZOO_STRICT_PLUGINS="1")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: error[LZP101] linzoo-broken 1.0: cannot be imported")
