"""The arms of the ablation as recipes."""

from __future__ import annotations

from typing import Any

import pytest
from linzoo_benchmarks.distillation.ablation import recipe_of
from linzoo_benchmarks.distillation.arms import ARMS, BATCH, SEEDS, STEPS, UNTRAINED, Arm

from linzoo.distillation.recipe import Recipe

BY_NAME = {arm.name: arm for arm in (*UNTRAINED, *ARMS)}


def recipe(arm: Arm, seed: int = 0) -> Recipe:
    resolved = recipe_of(arm, seed)
    assert resolved is not None
    return resolved.recipe


def differences(one: Any, other: Any, path: str = "") -> set[str]:
    """Where two documents differ, as dotted names of what stands deepest."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            found
            for key in one.keys() | other.keys()
            for found in differences(one.get(key), other.get(key), f"{path}.{key}".strip("."))
        }
    return set() if one == other else {path}


def changed(before: str, after: str) -> set[str]:
    return differences(
        recipe(BY_NAME[before]).model_dump(mode="json"), recipe(BY_NAME[after]).model_dump(mode="json")
    )


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ARMS) + len(UNTRAINED)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_trained_arm_takes_the_same_steps_of_the_same_batch(arm: Arm) -> None:
    found = recipe(arm)
    stages = [stage for stage in (found.align, found.distill) if stage is not None]
    assert sum(stage.steps for stage in stages) == STEPS
    assert {stage.batch for stage in stages} == {BATCH}


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_trained_arm_starts_from_what_its_recipe_asks_for(arm: Arm) -> None:
    assert recipe(arm).start in (None, arm.start)


@pytest.mark.parametrize("arm", [arm for arm in BY_NAME.values() if arm.recipe], ids=lambda arm: arm.name)
def test_the_seed_is_the_recipes_and_nothing_else_changes_with_it(arm: Arm) -> None:
    documents = [recipe(arm, seed).model_dump(mode="json") for seed in SEEDS]
    assert [document["seed"] for document in documents] == list(SEEDS)
    assert differences(documents[0], documents[-1]) == {"seed"}


@pytest.mark.parametrize("arm", [arm for arm in BY_NAME.values() if arm.recipe], ids=lambda arm: arm.name)
def test_all_are_measured_on_the_same_data(arm: Arm) -> None:
    official, found = recipe(BY_NAME["official"]), recipe(arm)
    assert found.validation == official.validation
    same = {"caption_dropout": 0.0}
    assert found.data.model_copy(update=same) == official.data.model_copy(update=same)


@pytest.mark.parametrize(
    ("before", "after", "sections"),
    [
        ("official", "teacher", {"start"}),
        ("teacher", "sharpness", {"calibrate"}),
        ("sharpness", "ridge", {"calibrate"}),
        ("ridge", "align", {"align", "distill"}),
        ("align", "features", {"distill"}),
        ("features", "guided", {"distill", "data"}),
        ("ours", "softmax", {"keep_softmax"}),
    ],
)
def test_each_arm_changes_one_thing(before: str, after: str, sections: set[str]) -> None:
    assert {path.partition(".")[0] for path in changed(before, after)} == sections


def test_what_each_arm_changes() -> None:
    assert changed("sharpness", "ridge") == {"calibrate.ridge"}
    assert changed("align", "features") == {"distill.loss.features.normalize"}
    assert changed("features", "guided") == {"distill.loss.guided", "data.caption_dropout"}


def test_the_published_recipe_is_the_control() -> None:
    found = recipe(BY_NAME["official"])
    assert found.calibrate is None
    assert found.align is None
    assert found.distill is not None
    loss = found.distill.loss
    assert (loss.noise.start, loss.kd.start) == (1.0, 0.5)
    assert loss.features is not None
    assert (loss.features.weight.start, loss.features.normalize) == (0.5, False)
    assert loss.guided is None


def test_the_untrained_arm_trains_nothing() -> None:
    found = recipe(BY_NAME["calibrated"])
    assert found.calibrate is not None
    assert (found.align, found.distill) == (None, None)
