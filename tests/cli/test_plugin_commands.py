"""Commands of plugins: listed from metadata, imported on use, never in front of linzoo's own."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner, Result
from dists import Site

from linzoo.cli.main import main as shared_main
from linzoo.cli.plugin_commands import RootGroup

COMMAND = """
import click
from linzoo.errors import UndecidedError

@click.command()
@click.argument("what")
@click.option("--loud", is_flag=True)
def export(what, loud):
    "Export something."
    if what == "fog":
        raise UndecidedError("cannot see what it is; pass --kind")
    click.echo(f"exported {what}{'!' if loud else ''}")
"""


@pytest.fixture
def main(site: Site) -> RootGroup:
    """The command group anew, since it looks for plugins once."""
    return RootGroup("linzoo", commands=dict(shared_main.commands))


def add(site: Site, dist: str, body: str = COMMAND, *, entry: str = "export", target: str = "export") -> None:
    site.add(dist, body, entry=entry, group="linzoo.commands", target=f"{dist.replace('-', '_')}:{target}")


def run(main: RootGroup, *arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_help_lists_them_after_the_own_ones_without_importing(site: Site, main: RootGroup) -> None:
    add(site, "linzoo-kolors", entry="archive")
    lines = run(main, "--help").output.splitlines()
    assert lines[-1].split() == ["archive", "(from", "linzoo-kolors", "1.0)"]
    assert "linzoo_kolors" not in sys.modules


def test_the_command_runs_with_its_own_options(site: Site, main: RootGroup) -> None:
    add(site, "linzoo-kolors")
    assert run(main, "export", "it", "--loud").output == "exported it!\n"
    assert "Export something." in run(main, "export", "--help").output
    assert run(main, "export").exit_code == 2


def test_errors_of_linzoo_keep_their_exit_code(site: Site, main: RootGroup) -> None:
    add(site, "linzoo-kolors")
    done = run(main, "export", "fog")
    assert (done.exit_code, done.stderr) == (3, "error: cannot see what it is; pass --kind\n")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise ImportError('no triton')", "ImportError: no triton"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("export = 7", "'linzoo_kolors:export' is no click command, but an int"),
        ("", "AttributeError: module 'linzoo_kolors' has no attribute 'export'"),
    ],
)
def test_a_broken_command_is_listed_and_says_why_when_used(
    site: Site, main: RootGroup, body: str, why: str
) -> None:
    add(site, "linzoo-kolors", body)
    assert "export" in run(main, "--help").output
    done = run(main, "export", "it")
    assert done.exit_code == 1
    assert done.stderr == (
        f"Error: the command 'export' of plugin linzoo-kolors 1.0 cannot be used: {why}\n"
        "  repair or uninstall the plugin; everything else works\n"
    )


def test_a_broken_command_shows_its_traceback_with_v(site: Site, main: RootGroup) -> None:
    add(site, "linzoo-kolors", "raise ImportError('no triton')")
    assert "Traceback (most recent call last)" in run(main, "export", "-v").stderr


def test_an_own_command_is_never_shadowed(site: Site, main: RootGroup) -> None:
    add(site, "linzoo-evil", entry="list")
    assert main.get_command(None, "list") is shared_main.commands["list"]  # type: ignore[arg-type]
    assert "linzoo-evil::list" in run(main, "--help").output
    assert run(main, "linzoo-evil::list", "it").output == "exported it\n"


def test_one_name_from_two_plugins_is_listed_under_full_names(site: Site, main: RootGroup) -> None:
    add(site, "linzoo-a")
    add(site, "linzoo-b", COMMAND.replace("exported", "b exported"))
    assert run(main, "linzoo-b::export", "it").output == "b exported it\n"
    done = run(main, "export", "it")
    assert done.exit_code == 2
    assert "No such command 'export'" in done.stderr


def test_switches_hold_for_commands_too(site: Site, main: RootGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    add(site, "linzoo-kolors")
    monkeypatch.setenv("LINZOO_DISABLE_PLUGINS", "linzoo-kolors")
    assert run(main, "export", "it").exit_code == 2
