"""``linzoo bench``: the measurements behind every figure that linzoo claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Group, State, echo_json, pass_state
from linzoo.cli.tables import print_table
from linzoo.errors import UsageError

if TYPE_CHECKING:
    import torch
    from linzoo_benchmarks.rows import Row

SHAPE = click.option(
    "--shape", "shapes", multiple=True, metavar="PATTERN",
    help="Shapes by name (sdxl-*-4096px-b2) or sizes (2x65536x10x64: batch, tokens, heads, head_dim); may be given "
    "again. Without it everything on a GPU, and on a CPU what takes minutes.",
)  # fmt: skip
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Precision; bfloat16 on a GPU and float32 on a CPU without it.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def bench() -> None:
    """Measure what linzoo claims, beside what it is compared with.

    \b
    Examples:
      linzoo bench kernels             attention over q, k, v
      linzoo bench layer               a whole self-attention layer
      linzoo bench report kernels.csv  tables and a plot out of the rows
    """


@bench.command()
@SHAPE
@click.option("--provider", "providers", multiple=True, metavar="NAME", help="Only this; may be given again.")
@click.option(
    "--mode", "modes", multiple=True, metavar="MODE",
    help="forward, graph, backward or forward+backward; may be given again.",
)  # fmt: skip
@DTYPE
@click.option("--out", type=click.Path(path_type=Path), default="kernels.csv", show_default=True,
              help="CSV file that rows are appended to.")  # fmt: skip
@JSON
@pass_state
def kernels(
    state: State,
    shapes: Sequence[str],
    providers: Sequence[str],
    modes: Sequence[str],
    dtype: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Time linear attention over q, k, v by everyone who has it.

    Copy bandwidth and matrix product first; then linzoo's backends, the published order of operations, that through
    torch.compile, and softmax attention take turns on the same inputs, and other people's kernels where they are
    installed. Each result is first compared with a float64 reference: what is wrong is not timed.

    \b
    Examples:
      linzoo bench kernels
      linzoo bench kernels --shape 'sdxl-*-4096px-b2' --provider triton --mode forward --out sdxl.csv

    Exit codes: 0 done, 1 a result was wrong, 2 wrong usage.
    """
    from linzoo_benchmarks import kernels as benchmark

    device, precision = _machine(dtype)
    rows = benchmark.run(
        _shapes(shapes, device),
        device=device,
        dtype=precision,
        out=out,
        say=state.say,
        providers=_named("provider", providers, {each.name: each for each in benchmark.PROVIDERS}),
        modes=_named("mode", modes, {each: each for each in benchmark.MODES}),
    )
    _print(rows, as_json)


@bench.command()
@SHAPE
@click.option("--form", "forms", multiple=True, metavar="NAME", help="Only this; may be given again.")
@DTYPE
@click.option("--out", type=click.Path(path_type=Path), default="layer.csv", show_default=True,
              help="CSV file that rows are appended to.")  # fmt: skip
@JSON
@pass_state
def layer(
    state: State, shapes: Sequence[str], forms: Sequence[str], dtype: str | None, out: Path, as_json: bool
) -> None:
    """Time a whole self-attention layer: published, mounted, folded, and the softmax layer it replaces.

    Beside the time: peak memory, bytes moved and operations launched; and from how many tokens on the folded layer is
    faster than softmax.

    \b
    Examples:
      linzoo bench layer
      linzoo bench layer --shape 'sd15-0-*-b2' --form official --form folded --out sd15.csv

    Exit codes: 0 done, 1 a result was wrong, 2 wrong usage.
    """
    from linzoo_benchmarks import layer as benchmark
    from linzoo_benchmarks.layers import FORMS

    device, precision = _machine(dtype)
    rows = benchmark.run(
        _shapes(shapes, device),
        device=device,
        dtype=precision,
        out=out,
        say=state.say,
        forms=_named("form", forms, {each.name: each for each in FORMS}),
    )
    _print(rows, as_json)


@bench.command()
@click.argument(
    "files", metavar="FILES...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="PNG file to draw the times into; needs linzoo[bench]."
)
@JSON
def report(files: Sequence[Path], plot: Path | None, as_json: bool) -> None:
    """Print the rows of FILES as tables, with crossing points and bars; --plot draws them.

    \b
    Examples:
      linzoo bench report kernels.csv
      linzoo bench report layer.csv --plot layer.png
    """
    from linzoo_benchmarks.rows import read_rows

    rows = read_rows(files)
    _print(rows, as_json)
    if plot:
        from linzoo_benchmarks.plot import draw_plot

        draw_plot(rows, plot)


@bench.command()
@click.option("--size", "sizes", multiple=True, default=("sd15", "sdxl"), show_default=True,
              help="Variant whose size the files have; may be given again.")  # fmt: skip
@click.option(
    "--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each program."
)
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Where the files go meanwhile (up to 25 GB); the temporary folder without it.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default="convert.csv", show_default=True,
              help="CSV file to write.")  # fmt: skip
@JSON
@pass_state
def convert(
    state: State, sizes: Sequence[str], repeats: int, folder: Path | None, out: Path, as_json: bool
) -> None:
    """Measure memory and time of `linzoo convert` beside cp and diffusers.

    \b
    Example:
      linzoo bench convert --size sd15 --repeats 1
    """
    from linzoo_benchmarks import convert as benchmark

    rows = benchmark.run(sizes, repeats, folder, out, state.say)
    if as_json:
        echo_json({"schema": 1, "rows": rows})
    else:
        click.echo(benchmark.markdown(rows))


def _machine(dtype: str | None) -> tuple[torch.device, torch.dtype]:
    import torch
    from linzoo_benchmarks.environment import default_device

    device = default_device()
    return device, getattr(torch, dtype or ("bfloat16" if device.type == "cuda" else "float32"))


def _shapes(wanted: Sequence[str], device: torch.device) -> list[Any]:
    from linzoo_benchmarks.shapes import all_shapes, distinct, select_shapes, small_shapes

    if wanted:
        return select_shapes(wanted)
    return distinct(all_shapes()) if device.type == "cuda" else small_shapes()


def _named(option: str, wanted: Sequence[str], present: dict[str, Any]) -> list[Any]:
    """What the names of an option stand for; all there is without any."""
    unknown = [name for name in wanted if name not in present]
    if unknown:
        raise UsageError(f"--{option} {unknown[0]!r} does not exist; there are: {', '.join(present)}.")
    return [present[name] for name in wanted or present]


def _print(rows: Sequence[Row], as_json: bool) -> None:
    from linzoo_benchmarks.report import document, tables

    if as_json:
        echo_json(document(rows))
        return
    for index, (heads, cells) in enumerate(tables(rows)):
        if index:
            click.echo()
        print_table(heads, cells)
