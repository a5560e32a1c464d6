"""``linzoo demo``: inspect, convert, mount and draw, on the model that ships with linzoo."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, State, pass_state, progress
from linzoo.cli.drawing import open_teacher, sheet_of
from linzoo.plugin import Resource

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection

SOURCE = "mini-v1"
PROMPTS = Resource("linzoo_mini", "prompts.json")
STEPS = 25
GUIDANCE = 4.0  # mini overshoots at Stable Diffusion's usual 7.5
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
    help="Folder for the checkpoint and the contact sheet.",
)
@click.option(
    "--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Denoising steps."
)
@click.option("--open/--no-open", "show", default=False, help="Open the contact sheet in the web browser.")
@pass_state
def demo(state: State, out: Path, steps: int, show: bool) -> None:
    """Convert the small model that ships, mount it, draw with it.

    Shows linzoo's main job on mini and names each command: inspects the model's single file, converts it to a LinFusion
    checkpoint, mounts that and draws 16 prompts with teacher and student side by side. Takes under a minute on a CPU
    and needs no network.

    \b
    Examples:
      linzoo demo
      linzoo demo --out /tmp/demo --open
    """
    started = time.monotonic()
    linfusion, sheet = out / "mini-linfusion", out / "contact-sheet.html"
    found = _inspect(state)
    _convert(state, linfusion)
    _draw(state, found, linfusion, sheet, steps)
    state.say(f"\nDone in {time.monotonic() - started:.0f} s. Open the contact sheet:")
    click.echo(sheet.resolve())
    if show:
        click.launch(sheet.resolve().as_uri())


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

    prompts = json.loads(PROMPTS.locate().read_text(encoding="utf-8"))
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
