"""``linzoo demo``: inspect, convert, mount, draw, validate, publish and load, on the models that ship with linzoo."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, State, pass_state, progress
from linzoo.cli.drawing import open_teacher, sheet_of

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection

SOURCE = "mini-v1"
DISTILLED = "mini-linfusion"
PROMPTS = ("linzoo_mini", "prompts.json")
PROMPT = "red apple, 3d emoji"
STEPS = 25
GUIDANCE = 4.0  # mini overshoots at Stable Diffusion's usual 7.5
IMAGES = 16
NOTE = (
    "The student is the teacher with linear attention in place of softmax, started from the teacher's weights and not "
    "distilled yet: it attends to all tokens almost alike, so that its pictures are expected to be worse."
)


@click.command(cls=Command)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("linzoo-demo"),
    show_default=True,
    help="Folder for the checkpoint, the contact sheet and the report.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Denoising steps."
)
@click.option("--open/--no-open", "show", default=False, help="Open the report in the web browser.")
@pass_state
def demo(state: State, out: Path, steps: int, show: bool) -> None:
    """Convert the small model that ships, draw with it, validate its distilled weights, and publish them.

    Shows linzoo's main job on mini and names each command: inspects the model's single file, converts it to a LinFusion
    checkpoint, mounts that and draws 16 prompts with teacher and student side by side. Distilling it would take an hour
    on a CPU; the result ships with linzoo, and is validated, pushed to a Hub that the demo starts on this machine, and loaded
    from there. Takes three minutes on a CPU and needs no network.

    \b
    Examples:
      linzoo demo
      linzoo demo --out /tmp/demo --open
    """
    from linzoo.cli.demo_hub import publish_and_load

    started = time.monotonic()
    linfusion, sheet = out / "converted", out / "contact-sheet.html"
    found = _inspect(state)
    _convert(state, linfusion)
    _draw(state, found, linfusion, sheet, steps)
    page = _validate(state, linfusion, out / "report", steps)
    publish_and_load(state, DISTILLED, SOURCE, out / "report", PROMPT, out / "from-the-hub.png")
    state.say(f"\nDone in {time.monotonic() - started:.0f} s. Open the contact sheet and the report:")
    click.echo(sheet.resolve())
    click.echo(page.resolve())
    if show:
        click.launch(page.resolve().as_uri())


def _step(state: State, text: str, command: str) -> None:
    state.say(f"\n{text}\n  $ {command}")


def _inspect(state: State) -> Inspection:
    from linzoo.checkpoints.detection import inspect

    _step(state, "What is this checkpoint?", f"linzoo inspect {SOURCE}")
    found = inspect(SOURCE, registry=state.registry)
    found.require()
    state.say(f"  {found.name}: {found.parameters / 1e6:.1f} M parameters, predicts {found.prediction_type}")
    return found


def _convert(state: State, linfusion: Path) -> None:
    from linzoo.init.convert import convert

    _step(
        state,
        "Replace its self-attention by linear attention, started from its own weights:",
        f"linzoo convert {SOURCE} {linfusion}",
    )
    result = convert(SOURCE, linfusion, force=True, registry=state.registry)
    state.say(f"  {len(result.plan.config.modules)} attention layers, {result.plan.nbytes / 1e6:.1f} MB")


def _draw(state: State, found: Inspection, linfusion: Path, sheet: Path, steps: int) -> None:
    from linzoo.attention.handle import load
    from linzoo.generate.compare import Settings, compare
    from linzoo.plugin import Resource

    prompts = json.loads(Resource(*PROMPTS).locate().read_text(encoding="utf-8"))
    _step(
        state,
        f"Draw {len(prompts)} prompts with teacher and student from the same noise; one of them would be:",
        f'linzoo generate {SOURCE} "{prompts[0]}" --linfusion {linfusion} --compare --guidance {GUIDANCE:g}',
    )
    pipe: Any = open_teacher(found, state, device="cpu")
    handle = load(pipe, linfusion, registry=state.registry)
    settings = Settings(steps=steps, guidance=GUIDANCE, batch=8)
    with progress(state, "Drawing", 2 * len(prompts) * steps) as advance:
        pairs = compare(pipe, handle, prompts, settings, advance)
    contact = sheet_of(pairs, "mini, drawn by linzoo", settings, NOTE)
    contact.save(sheet)
    contact.save(sheet.with_suffix(".png"))


def _validate(state: State, linfusion: Path, report: Path, steps: int) -> Path:
    from linzoo.cli.validate import print_result
    from linzoo.distillation.progress import open_progress
    from linzoo.validation.run import validate

    _step(
        state,
        "Distilling it takes an hour on a CPU, and the result ships with linzoo. This is how it was made, and whether it is as"
        " good as its teacher:",
        f"linzoo distill {linfusion} --teacher {SOURCE}\n"
        f"  $ linzoo validate {DISTILLED} --teacher {SOURCE} --suite quality --images {IMAGES} --steps {steps}"
        f" --report {report}",
    )
    result = validate(
        DISTILLED,
        SOURCE,
        suite="quality",
        report=report,
        device="cpu",
        images=IMAGES,
        steps=steps,
        registry=state.registry,
        progress=open_progress(quiet=state.quiet),
    )
    if not state.quiet:
        print_result(result)
    return report / "report.html"
