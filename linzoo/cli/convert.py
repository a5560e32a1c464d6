"""``linzoo convert``: a teacher becomes a LinFusion checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, OutPath, State, echo_json, pass_state, progress
from linzoo.cli.drawing import hush_libraries

if TYPE_CHECKING:
    from linzoo.init.convert import ConversionResult


@click.command(cls=Command)
@click.argument("source", metavar="SOURCE")
@click.argument("out", metavar="OUT", type=OutPath())
@click.option(
    "--init",
    metavar="ID",
    help="Init recipe: teacher, calibrated, random, pretrained, delta (linzoo list inits).",
)
@click.option("--plan", metavar="ID", help="Attention plan (linzoo list plans).")
@click.option(
    "--from",
    "linfusion",
    metavar="LINFUSION",
    help="Published LinFusion weights: a folder, or user/repo[@rev] on the Hub.",
)
@click.option("--base", metavar="MODEL", help="The model that those were distilled from, for --init delta.")
@click.option(
    "--variant", metavar="ID", help="Variant of SOURCE, where detection cannot tell (linzoo list variants)."
)
@click.option(
    "--prediction-type",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="What SOURCE predicts, where detection cannot tell.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="Precision to write; without it, that of the weights it starts from.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of what is drawn."
)
@click.option("--force", is_flag=True, help="Replace an earlier, unchanged result of linzoo in OUT.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Print every tensor's source and target, and what it needs; write nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_state
def convert(
    state: State, /, source: str, out: Path, force: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Convert SOURCE into a LinFusion checkpoint in the folder OUT.

    SOURCE is a diffusers folder, a .safetensors or .ckpt file, hf://repo[@rev][/file] or a registered name. Only the
    tensors that are needed are read, one at a time, and of a model on the Hub nothing else is fetched. OUT appears
    whole or not at all, with linzoo.lock.json beside the weights, which says where every tensor came from.

    \b
    Init recipes:
      teacher      the teacher's q, k, v, out bit for bit; the new branch adds nothing yet
      calibrated   as teacher, then sharpened and fitted to the teacher's own samples; no training, but minutes
      random       fresh random weights, as the published training script starts
      pretrained   published LinFusion weights as they are              (--from)
      delta        published + fine-tune - base                         (--from, --base)

    \b
    Examples:
      linzoo convert dreamshaper_8.safetensors dreamshaper-linfusion
      linzoo convert mini mini-linfusion --dry-run
      linzoo convert hf://stabilityai/stable-diffusion-xl-base-1.0 sdxl-linfusion
      linzoo convert dreamshaper_8.safetensors out --init pretrained --from hf://Yuanshi/LinFusion-1-5
      linzoo convert anime.safetensors anime-linfusion --init delta \\
          --from base-linfusion --base hf://stable-diffusion-v1-5/stable-diffusion-v1-5
      linzoo convert wd-1-5.safetensors wd-linfusion --prediction-type v_prediction

    Exit codes: 0 done, 1 SOURCE or OUT cannot be used, 2 wrong usage, 3 undecided (the message names the option).
    """
    from linzoo.init.convert import execute
    from linzoo.init.planning import plan_conversion

    plan = plan_conversion(source, registry=state.registry, **options)
    for problem in plan.inspection.problems:
        state.say(f"note: {problem}")
    for each in plan.inspection.evidence:
        if each.about == "prediction_type" and each.source in ("default", "value"):
            state.say(f"note: prediction type {each.says}: {each.detail}")
    if plan.unprepared and not dry_run:
        if plan.needs_pipeline:
            hush_libraries(state)
        execute(
            plan, out, force=force, dry_run=True
        )  # what speaks against OUT is said before minutes of work
        plan = plan.prepared(partial(progress, state))
    with progress(state, "Writing", plan.nbytes) as advance:
        result = execute(plan, out, force=force, dry_run=dry_run, progress=advance)
    if as_json:
        echo_json(_document(result))
    elif dry_run:
        _print_tensors(result)
    _print_summary(state, result, to_stderr=as_json)


def _document(result: ConversionResult) -> dict[str, Any]:
    plan = result.plan
    return {
        "schema": 1,
        "out": str(result.out),
        "written": result.written,
        "variant": plan.variant.value.id,
        "prediction_type": plan.inspection.prediction_type,
        "confidence": plan.inspection.confidence,
        "plan": plan.attention_plan.value.id,
        "init": plan.recipe.value.id,
        "replaced": [module.module_name for module in plan.config.modules],
        "kept_softmax": list(plan.kept),
        "bytes": plan.nbytes,
        "bytes_to_fetch": plan.to_fetch,
        "memory_bound": plan.memory,
        "disk_needed": plan.disk,
        "disk_free": result.free,
        "measured": dict(plan.init.measured),
        "problems": list(plan.inspection.problems),
        "tensors": [
            {
                "target": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "action": tensor.action,
                "sources": list(tensor.sources),
                "how": tensor.how,
            }
            for tensor in plan.init.tensors
        ],
    }


def _print_tensors(result: ConversionResult) -> None:
    for tensor in result.plan.init.tensors:
        shape = "x".join(map(str, tensor.shape))
        source = " + ".join(tensor.sources) or tensor.how
        click.echo(f"{tensor.action:11}  {source}  ->  {tensor.name}  {tensor.dtype} {shape}")


def _print_summary(state: State, result: ConversionResult, *, to_stderr: bool) -> None:
    plan = result.plan
    verb = "Wrote" if result.written else "Would write"
    lines = [
        f"{verb} {result.out}: {len(plan.config.modules)} modules, {len(plan.init.tensors)} tensors,"
        f" {_size(plan.nbytes)}",
        f"  variant {plan.variant.value.id} ({plan.inspection.prediction_type}), plan {plan.attention_plan.value.id}"
        f" ({len(plan.kept)} modules stay softmax), init {plan.recipe.value.id}",
    ]
    lines += [
        f"  {name.replace('_', ' ')}: {value}"
        for name, value in plan.init.measured.items()
        if not isinstance(value, Mapping)  # of every layer: in the lock file
    ]
    if not result.written:
        if listed := sum(
            digest.bytes for each in plan.inputs.values() for digest in each.store.stated.values()
        ):
            lines.append(f"  to fetch: {_size(plan.to_fetch)} of {_size(listed)} on the Hub")
        lines.append(
            f"  memory: at most {_size(plan.memory)} beyond the program{' and the pipeline' if plan.needs_pipeline else ''};"
            f" disk: {_size(plan.disk)} needed,"
            f" {_size(result.free)} free"
        )
    if to_stderr:
        state.say("\n".join(lines))
    elif not (state.quiet and result.written):
        click.echo("\n".join(lines))


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"
