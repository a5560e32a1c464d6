"""``linzoo recipes``: the distill recipes that there are, and whether one's own is right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from linzoo.cli.common import Command, Group, State, echo_json, pass_state
from linzoo.cli.tables import print_table
from linzoo.errors import LinzooError, UsageError

if TYPE_CHECKING:
    from linzoo.plugin import DistillRecipe
    from linzoo.registry import Registered

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
preset_option = click.option("--preset", metavar="NAME", help="Apply a preset of the recipe, such as 24gb.")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Change a setting, such as distill.steps=2000; may be given again.",
)  # fmt: skip


@click.group(cls=Group)
def recipes() -> None:
    """List distill recipes, look into one, copy one, or check one's own."""


@recipes.command("ls", cls=Command)
@json_option
@pass_state
def list_recipes(state: State, as_json: bool) -> None:
    """List the distill recipes of all plugins.

    \b
    Examples:
      linzoo recipes ls
      linzoo recipes ls --json
    """
    found = list(state.registry.distill_recipes)
    if as_json:
        echo_json({"schema": 1, "recipes": [_data(state, each) for each in found]})
        return
    rows = [
        (
            each.value.id,
            each.value.variant + " (default)" * _is_default(state, each),
            each.value.summary,
            each.plugin.label,
        )
        for each in found
    ]
    print_table(("ID", "VARIANT", "WHAT IT IS", "FROM"), rows)


@recipes.command("cat", cls=Command)
@click.argument("name", metavar="NAME|FILE")
@preset_option
@set_option
@json_option
@pass_state
def print_recipe(
    state: State, name: str, preset: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Print a recipe as it was written; with --preset or --set, every setting as it would hold.

    \b
    Examples:
      linzoo recipes cat sd15
      linzoo recipes cat sd15 --preset 8gb
      linzoo recipes cat sd15 --set distill.steps=2000 --json
    """
    from linzoo.distillation.document import dump
    from linzoo.distillation.lookup import find_recipe, locate_recipe

    found = find_recipe(name, state.registry, preset=preset, overrides=overrides)
    if as_json:
        echo_json({"schema": 1, "sha256": found.sha256, "preset": preset, "recipe": found.document})
    elif preset or overrides:
        click.echo(dump(found.recipe), nl=False)
    else:
        click.echo(locate_recipe(name, state.registry).read_text(encoding="utf-8"), nl=False)


@recipes.command("cp", cls=Command)
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@pass_state
def copy_recipe(state: State, name: str, file: Path) -> None:
    """Copy a recipe, comments and presets too, to a FILE or folder of one's own.

    \b
    Examples:
      linzoo recipes cp sd15 mine.yaml
    """
    from linzoo.distillation.lookup import locate_recipe

    source = locate_recipe(name, state.registry)
    target = file / source.name if file.is_dir() else file
    try:
        with target.open("xb") as out:
            out.write(source.read_bytes())
    except FileExistsError as error:
        raise UsageError(f"{target} exists; name another file, or delete it first") from error
    except OSError as error:
        raise LinzooError(f"cannot copy {source} to {target}: {error.strerror or error}") from error
    state.say(f"wrote {target}; edit it, then: linzoo recipes validate {target}")


@recipes.command("validate", cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="FILE|NAME...")
@json_option
@pass_state
def validate_recipes(state: State, names: tuple[str, ...], as_json: bool) -> None:
    """Check recipes with all their presets; name every fault with its line, and exit 2 if there is any.

    \b
    Examples:
      linzoo recipes validate mine.yaml
      linzoo recipes validate *.yaml --json
    """
    results = [_check(state, name) for name in names]
    if as_json:
        echo_json({"schema": 1, "recipes": results})
    for result in results:
        if result["valid"] and not as_json:
            presets = ", ".join(result["presets"]) or "none"
            click.echo(f"{result['source']}: right (variant {result['variant']}; presets: {presets})")
    wrong = [result["error"] for result in results if not result["valid"]]
    if wrong:
        raise UsageError("\n".join(wrong))


def _check(state: State, name: str) -> dict[str, Any]:
    from linzoo.distillation.lookup import find_recipe

    try:
        found = find_recipe(name, state.registry)
    except LinzooError as error:
        return {"source": name, "valid": False, "error": str(error)}
    return {
        "source": name,
        "valid": True,
        "name": found.name,
        "variant": found.recipe.variant,
        "presets": list(found.presets),
        "sha256": found.sha256,
    }


def _data(state: State, each: Registered[DistillRecipe]) -> dict[str, Any]:
    return {
        "id": each.value.id,
        "full_id": each.full_id,
        "variant": each.value.variant,
        "default": _is_default(state, each),
        "summary": each.value.summary,
        "plugin": each.plugin.name,
    }


def _is_default(state: State, each: Registered[DistillRecipe]) -> bool:
    """Whether the variant is distilled by it where no recipe is named."""
    variant = state.registry.variants.resolve(each.value.variant, each.plugin)
    chosen = variant.value.default_distill
    return chosen is not None and state.registry.distill_recipes.resolve(chosen, variant.plugin) is each
