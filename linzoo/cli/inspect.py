"""``linzoo inspect``: what a checkpoint is, from its headers."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from linzoo.cli.common import Command, State, echo_json, pass_state
from linzoo.errors import UndecidedError

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection

_LABELS = 17  # columns


@click.command(cls=Command)
@click.argument("source")
@click.option("--variant", metavar="ID", help="Say which variant it is; its tensors must be there.")
@click.option(
    "--prediction-type",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="Say what the UNet predicts.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def inspect(
    state: State, source: str, variant: str | None, prediction_type: str | None, as_json: bool
) -> None:
    """Tell what a checkpoint is, with the evidence.

    SOURCE is a diffusers folder, a .safetensors or .ckpt file, hf://repo[@rev][/file] or a registered name.
    Only headers and configs are read, and of a model on the Hub nothing else is fetched.
    Exits with 3 where the evidence does not settle the variant or the prediction type.

    \b
    Examples:
      linzoo inspect dreamshaper_8.safetensors
      linzoo inspect v2-1_768.ckpt --prediction-type v_prediction
      linzoo inspect hf://stabilityai/stable-diffusion-xl-base-1.0 --json
    """
    from linzoo.checkpoints.detection import inspect as look

    found = look(
        source, registry=state.registry, variant=variant, prediction_type=prediction_type, fetch_weights=False
    )
    if as_json:
        echo_json({"schema": 1, **found.to_json()})
    else:
        _print(found)
    if not found.decided:
        raise UndecidedError(found.question())


def _print(found: Inspection) -> None:
    for label, value in _facts(found):
        _print_wrapped(value, f"{label:{_LABELS}}", " " * _LABELS)
    click.echo("\nevidence")
    for each in found.evidence:
        about = each.about.replace("_", " ")
        click.echo(
            f"  {about}: {each.says or 'undecided'} (from {each.source}, confidence {each.confidence})"
        )
        _print_wrapped(each.detail, "    ", "    ")
    for problem in found.problems:
        click.echo()
        _print_wrapped(problem, "note: ", "      ")


def _print_wrapped(text: str, first: str, later: str) -> None:
    """Print a text as wide as the terminal, a long path whole; elsewhere in one line.

    What it quotes from a file of somebody's must not steer the terminal.
    """
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        text = textwrap.fill(text, max(width, 40), initial_indent=first, subsequent_indent=later,
                             break_long_words=False, break_on_hyphens=False)  # fmt: skip
    else:
        text = first + text
    click.echo(text)


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "source", found.checkpoint.spec
    yield "is", found.name or "undecided"
    yield "variant", found.variant or "-"
    yield "prediction type", found.prediction_type or "-"
    yield "confidence", found.confidence
    if found.native_size:
        yield "native size", f"{found.native_size} px"
    yield "layout", found.layout
    for part, count in found.components.items():
        dtypes = ", ".join(f"{number} {code}" for code, number in count.dtypes.items())
        yield part, f"{count.parameters:,} parameters, {count.nbytes / 2**20:,.0f} MiB ({dtypes})"
