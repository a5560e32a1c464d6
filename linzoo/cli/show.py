"""``linzoo show``: everything that is known of one id."""

from __future__ import annotations

import click

from linzoo.cli.common import Command, State, echo_json, pass_state
from linzoo.cli.list import KIND_NAMES


@click.command(cls=Command)
@click.argument("name", metavar="ID")
@click.option("--kind", type=click.Choice(KIND_NAMES), help="Where one id names entries of several kinds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def show(state: State, name: str, kind: str | None, as_json: bool) -> None:
    """Show one variant, plan, mixer, recipe, check or encoder in full.

    \b
    Examples:
      linzoo show sd15
      linzoo show teacher --kind inits
      linzoo show linzoo-kolors::kolors --json
    """
    import yaml

    from linzoo.plugin import thaw
    from linzoo.registry.kinds import KINDS

    registry = state.registry
    if kind:
        found = [(each, registry.catalog(kind)[name]) for each in KINDS if each.name == kind]
    else:
        found = registry.find(name)
    if as_json:
        data = [
            {"kind": each.name, "plugin": registered.plugin.name, "version": registered.plugin.version}
            | thaw(registered.value)
            for each, registered in found
        ]
        echo_json({"schema": 1, "entries": data})
        return
    for each, registered in found:
        click.echo(f"{each.word} {registered.value.id} (from {registered.plugin.label})")
        text = yaml.safe_dump(thaw(registered.value), sort_keys=False, allow_unicode=True, width=100)
        click.echo("".join(f"  {line}\n" for line in text.splitlines()))
