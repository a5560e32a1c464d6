"""``linzoo verify``: is a checkpoint still what its lock file says?"""

from __future__ import annotations

from functools import partial

import click

from linzoo.cli.common import Command, State, echo_json, pass_state, progress
from linzoo.cli.tables import print_table


@click.command(cls=Command)
@click.argument("checkpoint", metavar="FOLDER|REPO")
@click.option(
    "--teacher",
    metavar="SOURCE",
    help="What it was made from, where the lock file names a local file; or another model to hold against it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def verify(state: State, checkpoint: str, teacher: str | None, as_json: bool) -> None:
    """Check every hash of a checkpoint's lock file again.

    A FOLDER is read; of a REPO on the Hub (user/repo[@rev]) no weights are fetched, for the Hub states what they hash to. Plan
    and recipes are held against their hashes, and what the checkpoint was made from against the Hub, what plugins ship, or
    SOURCE. What cannot be checked is said, and is no failure.

    \b
    Examples:
      linzoo verify dreamshaper-linfusion --teacher dreamshaper_8.safetensors
      linzoo verify user/dreamshaper-linfusion
      linzoo verify mini-linfusion --json

    Exit codes: 0 nothing differs, 1 a hash differs, a file is missing, or there are weights that the lock file does not name.
    """
    from linzoo.hub.verify import verify as run

    result = run(checkpoint, teacher=teacher, registry=state.registry, follow=partial(progress, state))
    if as_json:
        echo_json(result.to_json())
    else:
        print_table(
            ("VERDICT", "WHAT", "FOUND"),
            [(each.verdict, each.subject, each.detail) for each in result.findings],
        )
        wrong = ", ".join(each.subject for each in result.wrong)
        click.echo(
            f"{result.checkpoint}: {f'not what its lock file says: {wrong}' if wrong else 'as its lock file says'}"
        )
    if result.wrong:
        raise SystemExit(1)
