"""``linzoo bench distill``: what distillation is worth, measured on mini."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from linzoo.cli.common import Group, State, pass_state
from linzoo.cli.drawing import hush_libraries

# Named here, since --help must not import torch.
SIZES = ("mini", "sd15", "sdxl")
PAGE = Path("docs") / "results" / "distillation.md"

RESULTS = click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), default="benchmarks/results",
    show_default=True, help="Folder of the CSV files: distill-NAME.csv.",
)  # fmt: skip
WORK = click.option(
    "--work", type=click.Path(path_type=Path, file_okay=False), default="out/bench-distill", show_default=True,
    help="Folder for data, runs and checkpoints (200 MB).",
)  # fmt: skip


@click.group(cls=Group)
def distill() -> None:
    """Measure what distillation is worth, on mini.

    Every command writes a row as it is measured and goes on where it was stopped. Takes the one core that
    OMP_NUM_THREADS=1 gives it; together about an hour.

    \b
    Examples:
      linzoo bench distill ablation     the published recipe, and one change after another (45 minutes)
      linzoo bench distill transfer     a fine-tune without training (needs the ablation; minutes)
      linzoo bench distill resolution   more tokens than it was made for (minutes)
      linzoo bench distill speed        linzoo's loop beside the published one (a few minutes)
      linzoo bench distill report       docs/results/distillation.md out of the rows
    """


@distill.command()
@RESULTS
@WORK
@pass_state
def ablation(state: State, results: Path, work: Path) -> None:
    """Distil mini from the published recipe to linzoo's own.

    One change after another, three seeds, equal steps. An arm that has its row is not run again.

    \b
    Example:
      OMP_NUM_THREADS=1 linzoo bench distill ablation --results out/results
    """
    from linzoo_benchmarks.distillation import ablation as benchmark
    from linzoo_benchmarks.distillation.page import NAMES

    hush_libraries(state)
    benchmark.run(results / NAMES["ablation"], results / NAMES["curves"], work, state.say)


@distill.command()
@RESULTS
@WORK
@pass_state
def transfer(state: State, results: Path, work: Path) -> None:
    """Compare weights for a fine-tune that came to be without training.

    Published practice, the delta of the fine-tune, calibration. Takes the weights that the ablation distilled.

    \b
    Example:
      linzoo bench distill transfer --results out/results
    """
    from linzoo_benchmarks.distillation import transfer as benchmark
    from linzoo_benchmarks.distillation.page import NAMES

    hush_libraries(state)
    benchmark.run(results / NAMES["transfer"], work, state.say)


@distill.command()
@RESULTS
@pass_state
def resolution(state: State, results: Path) -> None:
    """Compare attention over more tokens than it was made for.

    With and without normalisation: the paper's argument for it.

    \b
    Example:
      linzoo bench distill resolution --results out/results
    """
    from linzoo_benchmarks.distillation import resolution as benchmark
    from linzoo_benchmarks.distillation.page import NAMES

    hush_libraries(state)
    benchmark.run(results / NAMES["resolution"], state.say)


@distill.command()
@click.option("--size", "sizes", multiple=True, type=click.Choice(SIZES), default=("mini",), show_default=True,
              help="Networks of this variant; may be given again. sd15 and sdxl have random weights and want a GPU.")  # fmt: skip
@click.option(
    "--turns", type=click.IntRange(min=1), default=5, show_default=True, help="Turns of every loop."
)
@RESULTS
@pass_state
def speed(state: State, sizes: Sequence[str], turns: int, results: Path) -> None:
    """Time and weigh linzoo's training loop beside the published one.

    Each in a fresh process, in turns.

    \b
    Examples:
      OMP_NUM_THREADS=1 linzoo bench distill speed --turns 3
      linzoo bench distill speed --size sd15 --size sdxl --results out/results
    """
    from linzoo_benchmarks.distillation import speed as benchmark
    from linzoo_benchmarks.distillation.page import NAMES

    benchmark.run(results / NAMES["speed"], state.say, sizes=sizes, turns=turns)


@distill.command()
@RESULTS
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, show_default=True,
              help="Markdown file to write.")  # fmt: skip
def report(results: Path, out: Path) -> None:
    """Write the page of results out of the rows.

    \b
    Example:
      linzoo bench distill report --results out/results --out out/results.md
    """
    from linzoo_benchmarks.distillation.page import Results, write

    click.echo(write(Results.read(results), out))
