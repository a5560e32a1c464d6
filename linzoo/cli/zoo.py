"""``linzoo zoo``: which LinFusion checkpoints there are, and adding one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, Group, State, echo_json, pass_state
from linzoo.cli.tables import print_table
from linzoo.errors import UsageError

if TYPE_CHECKING:
    from linzoo.zoo.listing import Listed

indexes_option = click.option(
    "--index",
    "indexes",
    multiple=True,
    metavar="FILE|hf://datasets/user/name[@rev]",
    help="An index; may be given again. Without it, those that LINZOO_ZOO names, separated by commas.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def zoo() -> None:
    """List and search LinFusion checkpoints that indexes and plugins name, and add one's own to an index."""


@zoo.command("list", cls=Command)
@indexes_option
@json_option
@pass_state
def list_zoo(state: State, indexes: tuple[str, ...], as_json: bool) -> None:
    """List all checkpoints: those of the indexes, and those that plugins declare.

    \b
    Examples:
      linzoo zoo list
      linzoo zoo list --index hf://datasets/user/linfusion-zoo
    """
    from linzoo.zoo.listing import list_checkpoints, named_indexes

    _print(list_checkpoints(named_indexes(indexes), state.registry), as_json)


@zoo.command("search", cls=Command)
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@click.option(
    "--base", default="", metavar="MODEL", help="Part of the base model's Hub id, or its base hash."
)
@click.option("--variant", default="", metavar="ID", help="Variant (linzoo list variants).")
@click.option("--mixer", default="", metavar="ID", help="Mixer that is in it (linzoo list mixers).")
@click.option("--license", default="", metavar="ID", help="Licence, such as apache-2.0.")
@indexes_option
@json_option
@pass_state
def search_zoo(
    state: State, /, words: tuple[str, ...], indexes: tuple[str, ...], as_json: bool, **fields: str
) -> None:
    """Search the checkpoints: all TEXT is in one of the names, and every option holds.

    \b
    Examples:
      linzoo zoo search dreamshaper
      linzoo zoo search --variant sdxl --license openrail++
      linzoo zoo search --base stable-diffusion-xl-base-1.0 --json
    """
    from linzoo.zoo.listing import Query, list_checkpoints, named_indexes

    query = Query(" ".join(words), **fields)
    if query == Query():
        raise UsageError("name something to search for; 'linzoo zoo list' lists all")
    found = list_checkpoints(named_indexes(indexes), state.registry)
    _print([each for each in found if query.matches(each.entry)], as_json)


@zoo.command("show", cls=Command)
@click.argument("repo")
@indexes_option
@json_option
@pass_state
def show_zoo(state: State, repo: str, indexes: tuple[str, ...], as_json: bool) -> None:
    """Show all that is known of one checkpoint.

    \b
    Examples:
      linzoo zoo show mini-linfusion
      linzoo zoo show user/dreamshaper-linfusion --json
    """
    import yaml

    from linzoo.zoo.listing import find_checkpoint, list_checkpoints, named_indexes

    found = find_checkpoint(repo, list_checkpoints(named_indexes(indexes), state.registry))
    if as_json:
        echo_json({"schema": 1, **_data(found)})
    else:
        click.echo(yaml.safe_dump(_data(found), sort_keys=False, allow_unicode=True), nl=False)


@zoo.command("add", cls=Command)
@click.argument("repo", metavar="REPO[@REV]")
@indexes_option
@json_option
@pass_state
def add_zoo(state: State, repo: str, indexes: tuple[str, ...], as_json: bool) -> None:
    """Add a published checkpoint of linzoo to an index, or its newer commit.

    Its lock file, model card and commit are read from the Hub. An index in a FILE is written; an index on the Hub gets a pull
    request, or the address of the one that is open already. Run again, it changes nothing, but for a pull request of yours
    that the index has overtaken: that is closed, and another is opened.

    \b
    Examples:
      linzoo zoo add user/dreamshaper-linfusion --index zoo.json
      linzoo zoo add user/dreamshaper-linfusion@v2 --index hf://datasets/user/linfusion-zoo
    """
    from linzoo.zoo.adding import add

    done = add(repo, indexes, state.registry)
    if as_json:
        outcome = {"index": done.index, "outcome": done.outcome, "pull_request": done.pull_request}
        echo_json({"schema": 1, **outcome, "entry": done.entry.to_json()})
        return
    said = {
        "present": f"{done.index} has it already, as it is",
        "written": f"written to {done.index}",
        "proposed": f"proposed to {done.index}",
        "pending": f"proposed to {done.index} already",
    }
    click.echo(f"{done.entry.checkpoint}: {said[done.outcome]}")
    if done.pull_request:
        click.echo(done.pull_request)


def _print(found: list[Listed], as_json: bool) -> None:
    if as_json:
        echo_json({"schema": 1, "checkpoints": [_data(each) for each in found]})
        return
    if not found:
        click.echo("no such checkpoint")
        return
    heads = ("CHECKPOINT", "VARIANT", "BASE", "MIXERS", "KD", "LICENCE", "SIZE", "FROM")
    print_table(heads, [_row(each) for each in found])


def _row(listed: Listed) -> tuple[str, ...]:
    entry = listed.entry
    return (
        entry.repo,
        entry.variant,
        entry.base or "-",
        ", ".join(entry.mixers),
        entry.kd_in_words,
        entry.license or "-",
        "-" if entry.bytes is None else f"{entry.bytes / 1e6:,.1f} MB",
        listed.index,
    )


def _data(listed: Listed) -> dict[str, Any]:
    return {"checkpoint": listed.entry.checkpoint, "index": listed.index, **listed.entry.to_json()}
