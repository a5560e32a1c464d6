"""What a run is made from: what its result depends on must stay, all else may change."""

from __future__ import annotations

import pytest

from linzoo.distillation.document import read_recipe
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.identity import check_same, result_settings

RECIPE = """
schema_version: 1
name: test
variant: sd15
data: {source: prompts.txt}
calibrate: {}
align: {steps: 4, batch: 4}
distill: {steps: 4, batch: 4}
"""


def settings(*overrides: str) -> dict[str, object]:
    return result_settings(read_recipe(RECIPE, overrides=overrides).document)


@pytest.mark.parametrize(
    "override",
    [
        "gradient_checkpointing=true", "calibrate.micro_batch=1", "align.micro_batch=1",
        "distill.micro_batch=1", "distill.ema.device=cpu", "data.cache=elsewhere", "validation.every=7",
        "validation.images=0", "validation.image_steps=3", "validation.guidance=2", "saving.every=3",
        "saving.keep_best=false", "logging.tensorboard=true", "guards.max_skips=1",
    ],
)  # fmt: skip
def test_what_changes_no_result_may_change(override: str) -> None:
    assert settings(override) == settings()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1", "precision=float32", "keep_softmax=1", "start=random", "calibrate=null", "align.batch=8",
        "distill.steps=5", "distill.ema.decay=0.5", "distill.ema=null", "data.source=other.txt", "data.held_out=3",
        "validation.samples=3", "validation.scales=[1]",
    ],
)  # fmt: skip
def test_what_changes_the_result_may_not(override: str) -> None:
    assert settings(override) != settings()


def test_stages_that_are_left_out_have_no_settings() -> None:
    assert settings("align=null")["align"] is None


def test_the_difference_is_told() -> None:
    saved = {"recipe": {"seed": 1, "align": None}, "data": "a" * 64, "checkpoint": {"config.json": "b"}}
    now = {"recipe": {"seed": 2, "align": {"steps": 3}}, "data": "c" * 64}
    with pytest.raises(DistillationError) as caught:
        check_same(saved, now, "the run in X")
    assert str(caught.value).splitlines() == [
        "the run in X cannot be gone on with, for it was made from something else:",
        f"  data: {'a' * 16}… in the run, {'c' * 16}… now",
        "  recipe.align: nothing in the run, {'steps': 3} now",
        "  recipe.seed: 1 in the run, 2 now",
        "Give what it was made from, or choose another --out for a new run.",
    ]
    check_same(saved, {"data": "a" * 64}, "the run in X")
