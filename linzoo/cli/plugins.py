"""``linzoo plugins``: which plugins there are, what they provide, and what is wrong with them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, Group, State, echo_json, pass_state
from linzoo.cli.tables import print_table

if TYPE_CHECKING:
    from linzoo.registry import PluginStatus
    from linzoo.registry.candidates import Candidate

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def plugins() -> None:
    """List plugins, look into one, or read the reference of the hooks."""


@plugins.command("list", cls=Command)
@click.option("--all", "everything", is_flag=True, help="List the built-in plugins too.")
@click.option("--no-load", is_flag=True, help="Import nothing; tell what the metadata tell.")
@click.option("--requirements", is_flag=True, help="Print 'name==version' lines for pip.")
@json_option
@pass_state
def list_plugins(state: State, everything: bool, no_load: bool, requirements: bool, as_json: bool) -> None:
    """List installed plugins, their state, and what they provide.

    \b
    Examples:
      linzoo plugins list
      linzoo plugins list --all --json
      linzoo plugins list --requirements > plugins.txt
    """
    if requirements:
        _print_requirements()
        return
    statuses = _unloaded(state) if no_load else state.registry.plugins
    shown = [each for each in statuses if everything or each.origin != "built-in" or _state(each) != "ok"]
    if as_json:
        echo_json({"schema": 1, "plugins": [_data(each) for each in shown]})
        return
    if shown:
        rows = [
            (
                each.name,
                each.version,
                each.origin,
                _state(each),
                each.problem or _counts(each),
                f"{each.ms:.0f}",
            )
            for each in shown
        ]
        print_table(("NAME", "VERSION", "ORIGIN", "STATE", "PROVIDES (OR WHAT IS WRONG)", "MS"), rows)
    hidden = len(statuses) - len(shown)
    if hidden:
        state.say(f"built-in plugins that are not listed: {hidden} (--all)")


@plugins.command("show", cls=Command)
@click.argument("name")
@json_option
@pass_state
def show_plugin(state: State, name: str, as_json: bool) -> None:
    """Show a plugin in full.

    Entries, requirements, problems; with -v the traceback of what broke it.

    \b
    Examples:
      linzoo plugins show linzoo_mixers
      linzoo plugins show linzoo-kolors -v
    """
    found = state.registry.plugins_called(name)
    if as_json:
        echo_json({"schema": 1, "plugins": [_data(each) for each in found]})
        return
    for index, status in enumerate(found):
        click.echo("\n" * bool(index), nl=False)
        _show(status, state)


@plugins.command("hooks", cls=Command)
@click.argument("name", required=False)
@json_option
def show_hooks(name: str | None, as_json: bool) -> None:
    """List the hooks that a plugin can implement, or explain one.

    \b
    Examples:
      linzoo plugins hooks
      linzoo plugins hooks linzoo_variants
    """
    from linzoo.registry.hooks import all_hooks, find_hook

    hooks = (find_hook(name),) if name else all_hooks()
    if as_json:
        echo_json({"schema": 1, "hooks": [dataclasses.asdict(hook) for hook in hooks]})
    elif name:
        click.echo(f"{hooks[0].signature}\n\n{hooks[0].text}")
    else:
        rows = [(f"{hook.name}({', '.join(hook.arguments)})", hook.summary) for hook in hooks]
        print_table(("HOOK", "WHAT IT IS FOR"), rows)


def _show(status: PluginStatus, state: State) -> None:
    from linzoo.registry.loading import format_error

    click.echo(f"{status.label} ({status.origin}, {_state(status)}, {status.ms:.0f} ms)")
    click.echo(f"  loads: {status.candidate.target}")
    facts = {"requires": status.candidate.requires, "hooks": status.hooks} | status.provides
    for word, values in facts.items():
        if values:
            click.echo(f"  {word}: {', '.join(values)}")
    for problem in status.problems:
        click.echo(f"\n{problem.render()}")
    if state.verbose and status.error is not None:
        click.echo(f"\n{format_error(status)}", nl=False)


def _print_requirements() -> None:
    from linzoo.registry.candidates import installed_candidates

    for line in sorted({f"{each.dist}=={each.version}" for each in installed_candidates()}):
        click.echo(line)


def _unloaded(state: State) -> tuple[PluginStatus, ...]:
    from linzoo.registry.building import find_candidates
    from linzoo.registry.status import PluginStatus

    def status(candidate: Candidate, admitted: bool) -> PluginStatus:
        return PluginStatus(candidate, state="not loaded" if admitted else "disabled")

    return tuple(status(*each) for each in find_candidates(paths=state.plugin_files))


def _state(status: PluginStatus) -> str:
    shares = any(problem.code == "LZP403" for problem in status.problems)
    return "conflict" if shares and status.state == "ok" else status.state


def _counts(status: PluginStatus) -> str:
    """Entries by kind, then the hooks that are asked when something happens."""
    from linzoo.registry.kinds import DECLARATIONS

    counted = ((len(ids), kind) for kind, ids in status.provides.items())
    entries = [f"{count} {kind.removesuffix('s') if count == 1 else kind}" for count, kind in counted]
    return ", ".join([*entries, *(hook for hook in status.hooks if hook not in DECLARATIONS)])


def _data(status: PluginStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "version": status.version,
        "origin": status.origin,
        "entry_point": status.candidate.name,
        "target": status.candidate.target,
        "requires": list(status.candidate.requires),
        "state": _state(status),
        "hooks": list(status.hooks),
        "provides": {kind: list(ids) for kind, ids in status.provides.items()},
        "problems": [
            dataclasses.asdict(problem) | {"severity": problem.severity} for problem in status.problems
        ],
        "ms": round(status.ms, 1),
    }
