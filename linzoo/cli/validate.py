"""``linzoo validate``: is a LinFusion checkpoint as good as its teacher?"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, OutPath, State, echo_json, parse_size, pass_state, require_sources
from linzoo.cli.drawing import hush_libraries
from linzoo.cli.tables import print_table

if TYPE_CHECKING:
    from linzoo.validation.result import ValidationResult
    from linzoo.validation.verdicts import Judged

# The names of linzoo.validation, written out so that --help imports nothing.
SUITES = ("quick", "quality", "speed", "full")
PRESETS = ("coco-30k",)
_CULPRITS = 5


def _parse_bars(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    bars = {}
    for text in values:
        name, _equals, value = text.partition("=")
        bars[name] = _number(value)
        if not math.isfinite(bars[name]):
            raise click.BadParameter(f"{text!r} is not of the form kd=0.02.")
    return bars


def _parse_factors(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    factors = tuple(_number(each) for each in value.split(","))
    if not all(0 < factor < math.inf for factor in factors):
        raise click.BadParameter(f"{value!r} is not of the form 0.5,1,2.")
    return factors


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


@click.command(cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option(
    "--teacher",
    required=True,
    metavar="SOURCE",
    help="The model to hold it against: a folder, a file, hf://repo[@rev][/file] or a registered name.",
)
@click.option(
    "--suite", type=click.Choice(SUITES), default="quick", show_default=True, help="Which checks to run."
)
@click.option(
    "--report",
    type=OutPath(file_okay=False),
    metavar="DIR",
    help="Folder for report.html, report.json and pictures; without it, CHECKPOINT's name with -validation, and for the"
    " suite quick none.",
)
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML too."
)
@click.option("--bar", "bars", multiple=True, metavar="NAME=VALUE", callback=_parse_bars,
              help="Hold a measure against this value; may be given again.")  # fmt: skip
@click.option(
    "--preset", type=click.Choice(PRESETS), help="A published protocol; needs its captions with --prompts."
)
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Prompts to draw: one a line, a JSON list, or COCO's captions; without it, those that distillation kept aside.",
)
@click.option("--images", type=click.IntRange(min=2), help="How many prompts to draw.")
@click.option("--real", type=click.Path(path_type=Path, exists=True, file_okay=False), metavar="DIR",
              help="Folder of real pictures to compare with.")  # fmt: skip
@click.option("--encoder", "encoders", multiple=True, metavar="ID",
              help="Network to look with (linzoo list encoders); one of a kind, may be given again.")  # fmt: skip
@click.option(
    "--size", metavar="WxH", callback=parse_size, help="Pixels; without it, what it was trained at."
)
@click.option("--steps", type=click.IntRange(min=1), help="Denoising steps.")
@click.option("--guidance", type=click.FloatRange(min=1), help="Classifier-free guidance; 1 for none.")
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the noise."
)
@click.option(
    "--batch", type=click.IntRange(1, 16), default=8, show_default=True, help="Pictures drawn at once."
)
@click.option("--speed-sizes", metavar="LIST", callback=_parse_factors,
              help="Sides that the suite speed measures, in multiples of the size  [default: 0.5,1,2,4]")  # fmt: skip
@click.option("--device", help="Torch device; without it, a GPU where there is one.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]),
              help="Precision; without it, float32 on a CPU, else float16.")  # fmt: skip
@click.option("--variant", metavar="ID", help="Variant of the teacher, where detection cannot tell.")
@click.option(
    "--prediction-type",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="What the teacher predicts, where detection cannot tell.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def validate(
    state: State,
    /,
    checkpoint: str,
    teacher: str,
    junit: Path | None,
    as_json: bool,
    speed_sizes: tuple[float, ...] | None,
    **options: Any,
) -> None:
    """Say whether CHECKPOINT, a LinFusion checkpoint, is as good as its teacher.

    The suites: 'quick' looks at structure, numbers and one forward pass (seconds); 'quality' draws the same prompts from
    the same noise with both and compares predictions and pictures; 'speed' times both over sizes; 'full' is all of it,
    and four times the size too. Every suite begins with 'quick'.

    Each measure has a value and, where the variant, the distill recipe or --bar names one, a bar. What was drawn is kept in
    the report's folder: the same command goes on where it was stopped.

    \b
    Examples:
      linzoo validate mini-linfusion --teacher mini
      linzoo validate dream-linfusion --teacher dreamshaper_8.safetensors --suite quality --images 256
      linzoo validate dream-linfusion --teacher dreamshaper_8.safetensors --suite quality \\
        --bar clip-score-change=-0.2 --junit out.xml
      accelerate launch -m linzoo validate xl-linfusion --teacher xl --suite quality --preset coco-30k \\
        --prompts captions_val2014.json --real val2014

    Exit codes: 0 every bar is reached, 1 one fell or it cannot be done (the message says why), 2 wrong usage, 3 undecided.
    """
    require_sources(state, checkpoint, teacher)
    hush_libraries(state)
    from linzoo.checkpoints.atomic import write_bytes
    from linzoo.distillation.processes import leave
    from linzoo.distillation.progress import open_progress
    from linzoo.validation.junit import to_junit
    from linzoo.validation.run import validate as run

    if speed_sizes is not None:
        options["speed_sizes"] = speed_sizes
    result = run(
        checkpoint, teacher, registry=state.registry, progress=open_progress(quiet=state.quiet), **options
    )
    leave()
    if os.environ.get("RANK", "0") != "0":  # another process of the same run speaks
        return
    if junit is not None:
        write_bytes(junit, to_junit(result.to_json()))
    if as_json:
        echo_json(result.to_json())
    else:
        print_result(result)
    if result.failed:
        raise SystemExit(1)


def print_result(result: ValidationResult) -> None:
    """Print every measure, what is at fault where a bar fell, and the verdict last."""
    rows = [
        (
            each.verdict,
            each.measure.name,
            _value(each),
            _bar(each),
            each.measure.skipped or each.measure.detail,
        )
        for each in result.judged
    ]
    print_table(("VERDICT", "MEASURE", "VALUE", "BAR", "WHAT WAS FOUND"), rows)
    for note in result.notes:
        click.echo(f"note: {note}")
    for each in result.failed:
        culprits = list(each.measure.culprits)
        more = f" and {len(culprits) - _CULPRITS} more" if len(culprits) > _CULPRITS else ""
        click.echo(
            f"{each.measure.name} failed: {', '.join(culprits[:_CULPRITS]) or each.measure.detail}{more}"
        )
    click.echo(f"{result.checkpoint} {result.verdict} '{result.suite}' against {result.teacher}")
    if result.report is not None:
        click.echo(result.report / "report.html")


def _value(judged: Judged) -> str:
    value = judged.measure.value
    return "" if value is None else f"{value:.4g} {judged.measure.unit}".rstrip()


def _bar(judged: Judged) -> str:
    if judged.bar is None:
        return ""
    return f"{'≤' if judged.measure.better == 'lower' else '≥'} {judged.bar:g}"
