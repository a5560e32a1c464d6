"""``linzoo push``: publish a LinFusion checkpoint on the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, State, echo_json, pass_state, require_sources
from linzoo.cli.drawing import hush_libraries
from linzoo.cli.tables import print_table

if TYPE_CHECKING:
    from linzoo.hub.push import PushResult

# The names of linzoo.hub, written out so that --help imports nothing.
FORMATS = ("adapter", "pipeline")
MESSAGE = "Upload a LinFusion checkpoint with linzoo"

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def _parse_bytes(_: click.Context, __: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"(\d{1,6})(KB|MB|GB)", value.upper())
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{value!r} is not of the form 5GB, 500MB or 64KB.")
    return int(match[1]) * _UNITS[match[2]]


@click.command(cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.argument("repo", metavar="REPO")
@click.option(
    "--teacher",
    metavar="SOURCE",
    help="The model that it is for, where the lock file cannot say where that is: it was a local file.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Report of 'linzoo validate' whose numbers and pictures the card shows; without it, the suite quick is run.",
)
@click.option(
    "--license",
    metavar="ID",
    help="Licence, where the teacher's is unknown or several differ: an id such as apache-2.0, or NAME=LINK.",
)
@click.option(
    "--format",
    type=click.Choice(FORMATS),
    default="adapter",
    show_default=True,
    help="The linear modules alone, or a whole pipeline.",
)
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option("--pr", is_flag=True, help="Open a pull request.")
@click.option(
    "--revision", metavar="BRANCH", help="Branch to commit to, made where there is none; or refs/pr/N."
)
@click.option("--message", default=MESSAGE, show_default=True, help="Title of the commit.")
@click.option("--max-shard-size", "max_shard_bytes", default="5GB", show_default=True, callback=_parse_bytes,
              metavar="SIZE", help="Split weights into files of at most this size.")  # fmt: skip
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, print every request that would follow, and sizes; send nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def push(state: State, /, checkpoint: str, repo: str, as_json: bool, **options: Any) -> None:
    """Publish CHECKPOINT, a LinFusion checkpoint, as the model repository REPO on the Hugging Face Hub.

    Weights, model card, lock file and the report's pictures go there in one commit, or a pull request with --pr. Nothing is
    sent of a checkpoint that fails 'linzoo validate --suite quick', whose licence is unknown or conflicting, or that would
    be mixed with another kind of model. The licence is the teacher's, read from its card. Afterwards a fresh process loads
    the commit and compares a forward pass bit for bit. An interrupted push goes on with the same command.

    The login is that of 'hf auth login', or HF_TOKEN.

    \b
    Examples:
      linzoo push my-linfusion me/dreamshaper-8-linfusion --dry-run
      linzoo push my-linfusion me/dreamshaper-8-linfusion --report my-linfusion-validation
      linzoo push my-linfusion me/my-tune-linfusion --teacher my-tune.safetensors --license creativeml-openrail-m --private
      linzoo push my-linfusion them/their-repo --pr --message "Weights of the second run"
      linzoo push my-linfusion me/dreamshaper-8-linear --format pipeline

    Exit codes: 0 pushed (the last line is the commit's address), 1 refused or failed, 2 wrong usage.
    """
    require_sources(state, checkpoint, options["teacher"])
    hush_libraries(state)
    from linzoo.distillation.progress import open_progress
    from linzoo.hub.push import push as run

    _hush_uploads(state)
    result = run(
        checkpoint, repo, registry=state.registry, progress=open_progress(quiet=state.quiet), **options
    )
    if as_json:
        echo_json({"schema": 1, **asdict(result)})
    else:
        _print(result, state)


def _print(result: PushResult, state: State) -> None:
    if not state.quiet:
        _print_files(result)
    if result.sent is None:
        rows = [(each.method, each.path, f"{each.bytes:,}", each.what) for each in result.requests]
        print_table(("METHOD", "REQUEST", "BYTES", "WHAT FOR"), rows)
        click.echo("nothing was sent (--dry-run)")
        return
    if not result.sent.new:
        click.echo("nothing to do: all of it is there already", err=True)
    if result.sent.pull_request is not None:
        click.echo(f"pull request: {result.sent.pull_request}")
    click.echo(result.sent.url)


def _print_files(result: PushResult) -> None:
    rows = [*result.files.items(), *((name, None) for name in result.deleted)]
    print_table(
        ("FILE", "BYTES"),
        [(name, "deleted" if size is None else f"{size:,}") for name, size in sorted(rows)],
    )
    count = f"{len(result.files)} file{'s' if len(result.files) != 1 else ''}"
    click.echo(f"{count}, {sum(result.files.values()):,} bytes, to {result.repo}")
    click.echo(f"licence: {result.license}, {result.license.origin}")


def _hush_uploads(state: State) -> None:
    """The Hub's client draws bars of its own; none with ``-q``, and its warnings only with ``-v``."""
    from huggingface_hub.utils import disable_progress_bars, logging

    if state.quiet:
        disable_progress_bars()
    if not state.verbose:
        logging.set_verbosity_error()
