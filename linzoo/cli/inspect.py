"""``linzoo inspect``: what a checkpoint is, from its headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from linzoo.cli.common import Command, State, echo_json, pass_state
from linzoo.errors import UndecidedError

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection


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
    """Tell what a checkpoint is, with the evidence; reads its headers only.

    SOURCE is a diffusers folder, a .safetensors or .ckpt file, hf://repo[@rev] or a registered name.
    Of a model on the Hub only configs and headers are fetched.
    Exits with 3 where the evidence does not settle the variant or the prediction type.

    \b
    Examples:
      linzoo inspect dreamshaper_8.safetensors
      linzoo inspect v2-1_768.ckpt --prediction-type v_prediction
      linzoo inspect hf://stabilityai/stable-diffusion-xl-base-1.0 --json
    """
    from linzoo.checkpoints.inspection import inspect as look

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
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    facts = Table.grid(padding=(0, 2))
    for label, value in _facts(found):
        facts.add_row(label, value)
    console.print(facts, "")
    evidence = Table("evidence on", "from", "says", "confidence", box=None, padding=(0, 2, 0, 0))
    evidence.add_column("seen", overflow="fold")
    for each in found.evidence:
        evidence.add_row(
            each.about.replace("_", " "), each.source, each.says or "-", each.confidence, each.detail
        )
    console.print(evidence)
    for problem in found.problems:
        console.print(f"\nnote: {problem}")


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
