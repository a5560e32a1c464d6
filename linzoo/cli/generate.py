"""``linzoo generate``: draw with a teacher, with its student, or with both side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, OutPath, State, parse_size, pass_state, progress, require_sources
from linzoo.cli.drawing import open_teacher, sheet_of
from linzoo.errors import UsageError

if TYPE_CHECKING:
    from linzoo.attention.handle import Handle
    from linzoo.plugin.requests import DType


@click.command(cls=Command)
@click.argument("source", metavar="SOURCE")
@click.argument("prompt", metavar="PROMPT")
@click.option(
    "--linfusion",
    metavar="CHECKPOINT",
    help="LinFusion checkpoint to mount: a folder, user/repo[@rev] on the Hub, or 'auto' for what 'linzoo zoo' knows for SOURCE.",
)
@click.option("--compare", is_flag=True, help="Draw with the teacher too and write both side by side.")
@click.option(
    "--size", metavar="WxH", callback=parse_size, help="Pixels; without it, what the model was trained at."
)
@click.option("--steps", type=click.IntRange(min=1), default=25, show_default=True, help="Denoising steps.")
@click.option(
    "--guidance", type=float, default=7.5, show_default=True, help="Classifier-free guidance; 1 for none."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the noise."
)
@click.option("--negative", metavar="TEXT", help="What the picture should not show.")
@click.option(
    "--min-tokens",
    type=click.IntRange(min=0),
    default=0,
    help="Layers with fewer tokens than this keep the teacher's softmax attention.",
)
@click.option("--device", help="Torch device; without it, a GPU where there is one.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Precision; without it, float32 on a CPU, else float16.",
)
@click.option("--variant", metavar="ID", help="Variant of SOURCE, where detection cannot tell.")
@click.option(
    "--prediction-type",
    type=click.Choice(["epsilon", "v_prediction", "sample"]),
    help="What SOURCE predicts, where detection cannot tell.",
)
@click.option(
    "-o",
    "--out",
    type=OutPath(dir_okay=False),
    help="Picture to write (.png, .jpg, .webp; with --compare also .html); without it, named after the prompt.",
)
@pass_state
def generate(
    state: State,
    /,
    source: str,
    prompt: str,
    linfusion: str | None,
    compare: bool,
    size: tuple[int, int] | None,
    min_tokens: int,
    device: str | None,
    dtype: DType | None,
    variant: str | None,
    prediction_type: str | None,
    out: Path | None,
    **drawing: Any,
) -> None:
    """Draw PROMPT with a teacher, its student, or both.

    SOURCE alone is the teacher; with --linfusion that checkpoint is mounted in it; --compare draws both from the same
    noise, side by side.

    SOURCE is a diffusers folder, a .safetensors or .ckpt file, hf://repo[@rev][/file] or a registered name. The same seed
    gives the same picture.

    \b
    Examples:
      linzoo generate mini "red apple, 3d emoji"
      linzoo generate dreamshaper_8.safetensors "a lighthouse at dusk" --linfusion dreamshaper-linfusion --compare
      linzoo generate mini "pizza, flat emoji" --linfusion auto
      linzoo generate sdxl-folder "a harbour" --linfusion sdxl-linfusion --size 2048x1024 --min-tokens 4096
    """
    if linfusion is None and (compare or min_tokens):
        option = "--compare" if compare else "--min-tokens"
        raise UsageError(f"{option} needs --linfusion CHECKPOINT, the student.")
    require_sources(state, source, None if linfusion == "auto" else linfusion)
    from linzoo.checkpoints.detection import inspect
    from linzoo.checkpoints.kinship import other_weights
    from linzoo.checkpoints.linfusion_folder import open_linfusion
    from linzoo.generate.compare import Settings, draw
    from linzoo.generate.compare import compare as draw_both
    from linzoo.generate.output import check_target, write_image

    out = out or Path(f"{_slug(prompt)}-{drawing['seed']}.png")
    check_target(out, page=compare)
    opened = None
    if linfusion is not None and linfusion != "auto":  # looked at before the teacher is fetched
        opened, _ = open_linfusion(linfusion, registry=state.registry, fetch_weights=False)
    found = inspect(source, registry=state.registry, variant=variant, prediction_type=prediction_type)
    if size is None and found.native_size:
        size = found.native_size, found.native_size
    settings = Settings(size=size, **drawing)
    if opened is not None and (note := other_weights(opened, found, state.registry)):
        state.say(f"note: {note}")
    pipe = open_teacher(found, state, device=device, dtype=dtype)
    if opened is not None and opened.address is not None:
        linfusion = str(opened.address)  # the commit that was looked at
    handle = None if linfusion is None else _mount(state, pipe, linfusion, min_tokens)
    with progress(state, "Drawing", settings.steps * (2 if compare else 1)) as advance:
        if handle and compare:
            pairs = draw_both(pipe, handle, [prompt], settings, advance)
            sheet_of(pairs, f"{source} and {linfusion}", settings).save(out)
        else:
            write_image(out, draw(pipe, [prompt], settings, advance)[0])
    click.echo(out)


def _mount(state: State, pipe: Any, linfusion: str, min_tokens: int) -> Handle:
    import logging

    from linzoo.attention.handle import load

    logging.getLogger("linzoo").addHandler(logging.NullHandler())  # what it says is said here
    handle = load(pipe, linfusion, min_tokens=min_tokens, registry=state.registry)
    if handle.why:
        state.say(handle.why)
    return handle


def _slug(prompt: str) -> str:
    """A file name that tells the prompt."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60].strip("-") or "picture"
