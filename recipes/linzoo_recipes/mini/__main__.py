"""Command line: `python -m linzoo_recipes.mini all --out DIR` makes mini from nothing."""

from __future__ import annotations

from pathlib import Path

import click

from linzoo.errors import LinzooError

STEPS = ("all", "fetch", "render", "vae", "unet", "finetune", "clip", "export", "sheet")


@click.command()
@click.argument("step", type=click.Choice(STEPS), default="all")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Working folder; about 1 GB.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Where the shipped files go  [default: OUT/weights]"
)
@click.option("--device", help="torch device  [default: cuda if there is one, else cpu]")
def main(step: str, out: Path, weights: Path | None, device: str | None) -> None:
    """Make linzoo's mini teacher: fetch, render, train, fine-tune, export; or one of these steps.

    Steps that are done are not done again; an interrupted training step continues at its last checkpoint.
    """
    import torch

    from .steps import Recipe

    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    steps = Recipe(out, weights or out / "weights", chosen).steps()
    try:
        for name in steps if step == "all" else [step]:
            steps[name]()
    except LinzooError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
