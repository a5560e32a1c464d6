"""``linzoo distill``: from a converted checkpoint to one as good as its teacher."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, OutPath, State, echo_json, pass_state, require_sources
from linzoo.cli.drawing import hush_libraries
from linzoo.cli.recipes import preset_option, set_option

if TYPE_CHECKING:
    from linzoo.distillation.planning import Resume, RunPlan
    from linzoo.distillation.result import DistillResult


def _parse_resume(_: click.Context, __: click.Parameter, value: str | None) -> Resume | None:
    if value is None or value == "latest":
        return value  # type: ignore[return-value]
    if not value.isdigit():
        raise click.BadParameter(f"{value!r} is neither 'latest' nor the number of a saved step.")
    return int(value)


@click.command(cls=Command)
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option(
    "--teacher",
    required=True,
    metavar="SOURCE",
    help="The model to learn from: a folder, a file, hf://repo[@rev][/file] or a registered name.",
)
@click.option(
    "--recipe", metavar="NAME|FILE", help="Distill recipe (linzoo recipes ls); without it, the variant's own."
)
@preset_option
@set_option
@click.option(
    "--out",
    type=OutPath(),
    metavar="DIR",
    help="Folder of the run; without it, CHECKPOINT's name with -distilled.",
)
@click.option(
    "--resume",
    metavar="latest|STEP",
    callback=_parse_resume,
    help="Go on with the run in DIR, from its latest state or that of a step.",
)
@click.option("--device", help="Torch device; without it, a GPU where there is one.")
@click.option(
    "--cache", type=click.Path(path_type=Path), metavar="DIR", help="Folder for encoded training data."
)
@click.option("--variant", metavar="ID", help="Variant of the teacher, where detection cannot tell.")
@click.option(
    "--prediction-type",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="What the teacher predicts, where detection cannot tell.",
)
@click.option(
    "--dry-run", is_flag=True, help="Print memory, disk and time that the run would take; write nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def distill(
    state: State,
    /,
    checkpoint: str,
    out: Path | None,
    cache: Path | None,
    device: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Distil CHECKPOINT, a LinFusion checkpoint, until it draws as its teacher does.

    CHECKPOINT is what 'linzoo convert' wrote, and stays as it is. The result is DIR/linfusion; DIR/best has the weights
    that came closest to the teacher on held-out samples, DIR/images shows them on the way, DIR/metrics.jsonl has every
    figure. Ctrl-C finishes the step and saves; --resume latest goes on, bit for bit.

    \b
    Examples:
      linzoo convert mini mini-linfusion
      linzoo distill mini-linfusion --teacher mini
      linzoo distill dream-linfusion --teacher dreamshaper_8.safetensors --preset 24gb --dry-run
      linzoo distill dream-linfusion --teacher dreamshaper_8.safetensors --set distill.steps=5000
      linzoo distill dream-linfusion --teacher dreamshaper_8.safetensors --resume latest
      accelerate launch --num_processes 8 -m linzoo distill xl-linfusion --teacher xl --preset 8x80gb

    Exit codes: 0 done, 1 stopped or cannot start (the message says why), 2 wrong usage, 3 undecided.
    """
    require_sources(state, checkpoint, options["teacher"])
    from linzoo.checkpoints.address import name_of

    out = out or Path(f"{name_of(checkpoint)}-distilled")
    hush_libraries(state)
    if dry_run:
        _dry_run(state, checkpoint, out, device, as_json, options)
        return
    from linzoo.distillation.processes import leave
    from linzoo.distillation.progress import open_progress
    from linzoo.distillation.run import distill as run

    result = run(
        checkpoint,
        out=out,
        cache=cache,
        device=device,
        registry=state.registry,
        progress=open_progress(quiet=state.quiet),
        **options,
    )
    leave()
    if os.environ.get("RANK", "0") != "0":  # another process of the same run speaks
        return
    if as_json:
        echo_json(result.to_json())
    else:
        _print_result(result)


def _print_result(result: DistillResult) -> None:
    measures = result.measures
    guided = "  ".join(f"{scale}: {kd:.4g}" for scale, kd in measures["guided"].items())
    click.echo(f"{result.checkpoint}")
    click.echo(f"  KD {measures['kd']:.4g} after {result.steps} steps; guided KD by scale  {guided}")
    if result.best is not None and result.best["step"] != result.steps:
        click.echo(
            f"  lowest KD {result.best['kd']:.4g} after step {result.best['step']}: {result.out / 'best'}"
        )


def _dry_run(
    state: State, checkpoint: str, out: Path, device: str | None, as_json: bool, options: dict[str, Any]
) -> None:
    from linzoo.distillation.estimates import render
    from linzoo.distillation.planning import free_room, item_count, plan_run
    from linzoo.distillation.rehearsal import rehearse
    from linzoo.distillation.remedies import ladder, render_ladder
    from linzoo.generate.memory import out_of_memory

    plan = plan_run(checkpoint, out=out, registry=state.registry, **options)
    if plan.note:
        state.say(f"note: {plan.note}")
    preset = options["preset"] or ""
    arithmetic = plan.arithmetic(_processes(preset), item_count(plan))
    estimate, card, free = arithmetic.estimate(), _card(preset), free_room(plan)
    remedies = [] if card is None or estimate.fits(card) else ladder(arithmetic)
    if not as_json:
        click.echo(_head(plan))
        click.echo(render(estimate, card))
        click.echo(f"{free / 1e9:.1f} GB of disk are free for {out}")
        if remedies:
            click.echo(render_ladder(remedies, estimate.nbytes))
    timings = []
    try:
        for timing in rehearse(plan, state.registry, device):
            timings.append(timing)
            if not as_json:
                unit = "drawing" if timing.stage == "data" else "step"
                took = timedelta(seconds=round(timing.total))
                click.echo(
                    f"{timing.stage}: {timing.step:.3g} s a {unit} on this machine, {took} in one process"
                )
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        state.say("no time is told: a step runs out of memory on this machine")
    if as_json:
        echo_json(
            {
                "schema": 1,
                **estimate.to_json(),
                "card_gb": card,
                "disk_free": free,
                "remedies": [
                    {"set": each.settings, "price": each.price, "bytes": each.nbytes} for each in remedies
                ],
                "timings": [{"stage": t.stage, "step": t.step, "total": t.total} for t in timings],
            }
        )


def _head(plan: RunPlan) -> str:
    return (
        f"recipe {plan.recipe.name} ({', '.join(plan.work)}; {plan.steps:,} steps) on {plan.checkpoint.spec},"
        f" {len(plan.config.modules)} layers of {plan.variant.value.id}"
    )


def _card(preset: str) -> float | None:
    """Gigabytes of the card: that which a preset such as ``24gb`` is named after, or this machine's."""
    import torch

    if match := re.search(r"(\d+)gb", preset):
        return float(match[1])
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else None


def _processes(preset: str) -> int:
    """How many cards a preset such as ``8x80gb`` is for."""
    match = re.match(r"(\d+)x", preset)
    return int(match[1]) if match else 1
