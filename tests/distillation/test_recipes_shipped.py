"""Every recipe that ships is right, with each of its presets, and fits its variant and the cards that it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import linzoo_mini
import linzoo_recipes
import pytest

from linzoo.distillation.document import ResolvedRecipe
from linzoo.distillation.lookup import find_recipe
from linzoo.registry import build_registry

ZOO = build_registry(entry_points=False, env={})
NAMES = [each.value.id for each in ZOO.distill_recipes]
ALL = [(name, preset) for name in NAMES for preset in (None, *find_recipe(name, ZOO).presets)]
FOLDER = Path(linzoo_recipes.__file__).parent


@pytest.fixture(scope="module", params=ALL, ids=lambda each: f"{each[0]}-{each[1]}")
def found(request: pytest.FixtureRequest) -> tuple[ResolvedRecipe, int]:
    """A recipe, and on how many GPUs it runs."""
    name, preset = request.param
    processes = re.match(r"(\d+)x", preset or "")
    return find_recipe(name, ZOO, preset=preset), int(processes[1]) if processes else 1


def test_each_variant_has_a_recipe_and_the_published_one() -> None:
    variants = ("mini", "sd15", "sd21", "sdxl")
    assert [*variants[:1], *(f"official-{each}" for each in variants), *variants[1:]] == NAMES
    for variant in variants:
        assert ZOO.variants.get_value(variant).default_distill == variant
        assert find_recipe(None, ZOO, variant=ZOO.variants[variant]).name == variant


def test_variants_with_more_than_latents_have_none() -> None:
    special = [each.value for each in ZOO.variants if each.value.refines is not None]
    assert len(special) == 6
    assert [each.id for each in special if each.default_distill is not None] == []


def test_every_file_is_declared() -> None:
    declared = {each.value.document.locate() for each in ZOO.distill_recipes}
    assert declared == set(FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_document_says_what_the_plugin_says(name: str) -> None:
    entry, document = ZOO.distill_recipes.get_value(name), find_recipe(name, ZOO)
    assert (document.name, document.recipe.summary, document.recipe.variant) == (
        entry.id, entry.summary, entry.variant
    )  # fmt: skip


def test_it_fits_its_variant(found: tuple[ResolvedRecipe, int]) -> None:
    recipe, processes = found[0].recipe, found[1]
    plan = ZOO.plans.get_value(ZOO.variants.get_value(recipe.variant).default_plan)
    assert recipe.keep_softmax < plan.expect_replaced
    for stage in (recipe.align, recipe.distill):
        if stage is not None:
            assert stage.batch % (processes * (stage.micro_batch or 1)) == 0
            assert stage.optimizer.warmup < stage.steps
    lines = prompts(recipe.data.source)
    assert recipe.data.held_out + 16 <= len(lines) * recipe.data.sampling.per_prompt


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("official-")])
def test_the_published_hyper_parameters(name: str) -> None:
    recipe = find_recipe(name, ZOO).recipe
    assert (recipe.start, recipe.calibrate, recipe.align, recipe.keep_softmax) == ("random", None, None, 0)
    assert recipe.data.caption_dropout == 0
    assert recipe.distill is not None
    loss, optimizer = recipe.distill.loss, recipe.distill.optimizer
    assert loss.features is not None
    assert [loss.noise.start, loss.kd.start, loss.features.weight.start] == [1.0, 0.5, 0.5]
    assert [loss.noise.end, loss.kd.end, loss.features.weight.end] == [None] * 3
    assert (loss.features.normalize, loss.guided) == (False, None)
    assert (optimizer.schedule, optimizer.warmup, optimizer.clip) == ("constant", 0, None)
    assert (optimizer.name, optimizer.weight_decay, optimizer.betas) == ("adamw", 0.0, (0.9, 0.999))
    assert (recipe.distill.ema, recipe.distill.on_policy, recipe.distill.finish) == (None, None, None)
    assert recipe.distill.timesteps.sampling == "uniform"
    if recipe.variant != "mini":
        assert optimizer.new == optimizer.inherited == 1e-4
        assert recipe.distill.steps == 100_000
        assert recipe.distill.batch == (64 if recipe.variant == "sdxl" else 96)


def test_prompts_are_distinct_and_enough() -> None:
    general, mini = prompts("linzoo_recipes:prompts/general.txt"), prompts("linzoo_recipes:mini/prompts.txt")
    assert (len(general), len(mini)) == (1000, 512)
    for lines in (general, mini):
        assert len(set(lines)) == len(lines)
        assert all(line == line.strip() and line for line in lines)


def test_prompts_of_mini_are_like_those_it_was_trained_on_and_none_that_it_is_measured_by() -> None:
    lines = prompts("linzoo_recipes:mini/prompts.txt")
    styles = {re.fullmatch(r"[a-z ]+, (\w+) emoji", line)[1] for line in lines}  # type: ignore[index]
    assert styles <= {"noto", "blob", "flat", "gradient", "3d", "firefox"}
    measured = json.loads((Path(linzoo_mini.__file__).parent / "prompts.json").read_text())
    assert not set(measured) & set(lines)


@pytest.mark.slow
def test_it_fits_the_card_that_its_preset_names(found: tuple[ResolvedRecipe, int]) -> None:
    from layouts import default_layout

    from linzoo.distillation.arithmetic import Arithmetic

    resolved, processes = found
    variant = ZOO.variants[resolved.recipe.variant]
    card = re.search(r"(\d+)gb", resolved.preset or "24gb")
    assert card is not None
    if resolved.preset is None and resolved.name.startswith("official-"):
        pytest.skip("the published settings are for cards of 48 GB")
    arithmetic = Arithmetic(variant.value, default_layout(variant, ZOO), resolved.recipe, world=processes)
    assert arithmetic.memory(resolved.recipe) <= int(card[1]) * 1e9


def prompts(source: str) -> list[str]:
    package, _, path = source.partition(":")
    assert package == "linzoo_recipes"
    return (FOLDER / path).read_text(encoding="utf-8").splitlines()
