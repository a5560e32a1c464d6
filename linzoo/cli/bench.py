"""``linzoo bench``: the measurements behind every figure that linzoo claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.bench_distill import distill
from linzoo.cli.common import Group, State, echo_json, pass_state
from linzoo.cli.tables import print_table
from linzoo.errors import UsageError

if TYPE_CHECKING:
    import torch
    from linzoo_benchmarks.rows import Row
    from linzoo_benchmarks.shapes import Shape

# Named here, since --help must not import torch.
PROVIDERS = (
    "triton", "torch", "eager-compiled", "eager", "compile", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient",
    "fbi_la-ready", "fbi_la", "fla",
)  # fmt: skip
MODES = ("forward", "graph", "backward", "forward+backward")
FORMS = ("official", "mounted", "folded", "folded-merged", "folded-value-free", "softmax")

SHAPE = click.option(
    "--shape", "shapes", multiple=True, metavar="PATTERN",
    help="Shapes by name or by sizes (2x65536x10x64: batch, tokens, heads, head_dim); may be given again. Names are "
    "MODEL-LEVEL-PIXELSpx-bBATCH, such as sdxl-0-1024px-b1: sd15, sd21 or sdxl; levels from 0, the outermost; 512, 1024, "
    "2048, 4096 or 16384 pixels; batch 1 or 2; also fbi_la-TOKENS, 128 to 16384. * stands for anything. Without it "
    "everything on a GPU, and on a CPU what takes minutes.",
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
      linzoo bench distill             what distillation is worth
    """


bench.add_command(distill)


@bench.command()
@SHAPE
@click.option(
    "--provider", "providers", multiple=True, metavar="NAME", type=click.Choice(PROVIDERS),
    help=f"Only this; may be given again: {', '.join(PROVIDERS)}.",
)  # fmt: skip
@click.option(
    "--mode", "modes", multiple=True, metavar="MODE", type=click.Choice(MODES),
    help=f"Only this; may be given again: {', '.join(MODES)}.",
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
    """Time linear attention over q, k, v.

    Copy bandwidth and matrix product first; then linzoo's backends (triton, torch, compile), the published order of
    operations (eager), that through torch.compile (eager-compiled), and softmax attention (sdpa-...) take turns on the
    same inputs, and other people's kernels (fbi_la, fla) where they are installed. Each result is first compared with a
    float64 reference: what is wrong is not timed.

    \b
    Examples:
      linzoo bench kernels
      linzoo bench kernels --shape 'sdxl-*-4096px-b2' --provider triton --mode forward --out sdxl.csv

    Exit codes: 0 done, 1 a result was wrong or nothing could be measured, 2 wrong usage.
    """
    chosen = _shapes(shapes)
    device, precision = _machine(dtype)
    from linzoo_benchmarks import kernels as benchmark

    rows = benchmark.run(
        chosen or _default_shapes(device),
        device=device,
        dtype=precision,
        out=out,
        say=state.say,
        providers=_named(providers, benchmark.PROVIDERS),
        modes=modes or MODES,
    )
    _print(rows, as_json)


@bench.command()
@SHAPE
@click.option(
    "--form", "forms", multiple=True, metavar="NAME", type=click.Choice(FORMS),
    help=f"Only this; may be given again: {', '.join(FORMS)}.",
)  # fmt: skip
@DTYPE
@click.option("--out", type=click.Path(path_type=Path), default="layer.csv", show_default=True,
              help="CSV file that rows are appended to.")  # fmt: skip
@JSON
@pass_state
def layer(
    state: State, shapes: Sequence[str], forms: Sequence[str], dtype: str | None, out: Path, as_json: bool
) -> None:
    """Time whole self-attention layers.

    Published (official), mounted, folded, and the softmax layer that they replace. Beside the time: peak memory, bytes
    moved and operations launched; and from how many tokens on the folded layer is faster than softmax.

    \b
    Examples:
      linzoo bench layer
      linzoo bench layer --shape 'sd15-0-*-b2' --form official --form folded --out sd15.csv

    Exit codes: 0 done, 1 a result was wrong or nothing could be measured, 2 wrong usage.
    """
    chosen = _shapes(shapes)
    device, precision = _machine(dtype)
    from linzoo_benchmarks import layer as benchmark
    from linzoo_benchmarks import layers

    rows = benchmark.run(
        chosen or _default_shapes(device),
        device=device,
        dtype=precision,
        out=out,
        say=state.say,
        forms=_named(forms, layers.FORMS),
    )
    _print(rows, as_json)


@bench.command()
@click.argument(
    "files", metavar="FILES...", nargs=-1, required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)  # fmt: skip
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False),
    help="PNG file to draw the times into.",
)  # fmt: skip
@JSON
def report(files: Sequence[Path], plot: Path | None, as_json: bool) -> None:
    """Print tables of the rows in FILES, or draw them.

    Crossing points of layers stand below, and for rows of an H200 in bfloat16 what the kernels are held to.

    \b
    Examples:
      linzoo bench report kernels.csv
      linzoo bench report layer.csv --plot layer.png
    """
    from linzoo_benchmarks.rows import read_rows

    if plot and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot {plot}: plots are PNG files; give a name that ends with .png.")
    rows = read_rows(files)
    if plot:
        from linzoo_benchmarks.plot import draw_plot

        draw_plot(rows, plot)
    _print(rows, as_json)


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
    """Measure `linzoo convert` beside cp and diffusers.

    Memory and time of each, on made-up files of the size of a variant.

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


@bench.command("remote-convert")
@click.option("--size", "sizes", multiple=True, default=("sdxl",), show_default=True,
              help="Variant whose size the model has; may be given again.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Where the files go meanwhile (up to 15 GB); the temporary folder without it.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default="remote-convert.csv", show_default=True,
              help="CSV file that rows are appended to.")  # fmt: skip
@JSON
@pass_state
def remote_convert(state: State, sizes: Sequence[str], folder: Path | None, out: Path, as_json: bool) -> None:
    """Measure `linzoo convert hf://...` beside a download of the whole repository.

    Bytes, as the server counts them, and time, on a made-up pipeline of the size of a variant that a Hub on loopback
    serves.

    \b
    Example:
      linzoo bench remote-convert --size sd15
    """
    from dataclasses import asdict

    from linzoo_benchmarks import remote_convert as benchmark

    rows = benchmark.run(sizes, folder, out, state.say)
    if as_json:
        echo_json({"schema": 1, "rows": [asdict(row) for row in rows]})
    else:
        click.echo(benchmark.markdown(rows))


def _machine(dtype: str | None) -> tuple[torch.device, torch.dtype]:
    """Where to measure, and in what.

    Raises:
        BackendError: ``LINZOO_KERNELS`` asks for a backend that is not there: nothing is measured then.
    """
    import torch
    from linzoo_benchmarks.environment import default_device
    from linzoo_kernels import dispatch

    device = default_device()
    dispatch.choose("auto", device, lambda: None)
    return device, getattr(torch, dtype or ("bfloat16" if device.type == "cuda" else "float32"))


def _shapes(wanted: Sequence[str]) -> list[Shape]:
    """Told before torch is imported, which takes seconds."""
    from linzoo_benchmarks.shapes import select_shapes

    return select_shapes(wanted)


def _default_shapes(device: torch.device) -> list[Shape]:
    from linzoo_benchmarks.shapes import all_shapes, distinct, small_shapes

    return distinct(all_shapes()) if device.type == "cuda" else small_shapes()


def _named(wanted: Sequence[str], everyone: Sequence[Any]) -> list[Any]:
    """What the names of an option stand for; all there is without any."""
    return [each for each in everyone if not wanted or each.name in wanted]


def _print(rows: Sequence[Row], as_json: bool) -> None:
    from linzoo_benchmarks.report import document, legend, tables

    if as_json:
        echo_json(document(rows))
        return
    for index, (heads, cells) in enumerate(tables(rows)):
        if index:
            click.echo()
        print_table(heads, cells)
    below = legend(rows)
    if below:
        click.echo(f"\n{below}")
