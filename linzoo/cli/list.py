"""``linzoo list``: what there is to convert, and to convert it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, State, echo_json, pass_state
from linzoo.cli.tables import print_table

if TYPE_CHECKING:
    from linzoo.plugin import Entry
    from linzoo.registry import Catalog, Registered

# The names of linzoo.registry.kinds, written out so that --help imports nothing.
KIND_NAMES = ("variants", "plans", "mixers", "inits", "recipes", "checks", "encoders")


@click.command("list", cls=Command)
@click.argument("kind", type=click.Choice(KIND_NAMES), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def list_entries(state: State, kind: str | None, as_json: bool) -> None:
    """List variants, plans, mixers, init and distill recipes, checks and encoders.

    \b
    Examples:
      linzoo list              everything
      linzoo list variants
      linzoo list plans --json
    """
    names = [kind] if kind else KIND_NAMES
    catalogs = {name: state.registry.catalog(name) for name in names}
    if as_json:
        echo_json({"schema": 1} | {name: [_data(each) for each in found] for name, found in catalogs.items()})
        return
    for name, catalog in catalogs.items():
        if len(names) > 1:
            click.echo(f"{name}:")
        _print(catalog)
        if len(names) > 1:
            click.echo()


def _print(catalog: Catalog[Entry]) -> None:
    if not len(catalog):
        click.echo(f"no {catalog.word}s")
        return
    ambiguous = catalog.shared_ids()
    rows = [
        (
            each.full_id if each.value.id in ambiguous else each.value.id,
            each.value.summary,
            each.plugin.label,
        )
        for each in catalog
    ]
    print_table(("ID", "WHAT IT IS", "FROM"), rows)


def _data(each: Registered[Entry]) -> dict[str, Any]:
    return {
        "id": each.value.id,
        "full_id": each.full_id,
        "summary": each.value.summary,
        "plugin": each.plugin.name,
        "version": each.plugin.version,
    }
