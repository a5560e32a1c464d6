"""mini as it ships: really trained weights that obey their prompt, the same in a folder and in a single file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linzoo
from linzoo.cli.demo import PROMPTS
from linzoo.plugin import Resource, TeacherRequest
from linzoo.registry import Registry, build_registry

RED, BLUE = 0, 2


@pytest.fixture(scope="module")
def zoo() -> Registry:
    return build_registry(entry_points=False, env={})


def open_pipeline(zoo: Registry, name: str) -> Any:
    found = linzoo.inspect(name, registry=zoo)
    variant, prediction_type = found.require()
    request = TeacherRequest(
        source=name, path=found.checkpoint.path, variant=variant, prediction_type=prediction_type
    )
    pipe = zoo.load_teacher(request).pipeline
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def mini(zoo: Registry) -> Any:
    return open_pipeline(zoo, "mini")


def draw(pipe: Any, *prompts: str, steps: int = 10, **options: Any) -> np.ndarray:
    """Pictures (B, H, W, 3) in [0, 1]."""
    generators = [torch.Generator().manual_seed(0) for _ in prompts]
    return pipe(
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=4.0,
        generator=generators,
        output_type="np",
        **options,
    ).images


def colour(picture: np.ndarray) -> np.ndarray:
    """The mean colour of what is drawn on the white ground, from (H, W, 3)."""
    drawn = picture.min(axis=-1) < 0.8
    assert 0.1 < drawn.mean() < 0.95
    return picture[drawn].mean(axis=0)


def test_it_draws_the_colour_that_the_prompt_names(mini: Any) -> None:
    red, blue = map(colour, draw(mini, "red heart, flat emoji", "blue heart, flat emoji"))
    assert red[RED] - red[BLUE] > 0.3
    assert blue[BLUE] - blue[RED] > 0.3


def test_single_file_and_folder_draw_the_same(mini: Any, zoo: Registry) -> None:
    prompt = "pizza, 3d emoji"
    file = draw(open_pipeline(zoo, "mini-v1"), prompt, steps=2)
    np.testing.assert_array_equal(file, draw(mini, prompt, steps=2))


def test_plain_diffusers_loads_the_folder(mini: Any, zoo: Registry) -> None:
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(zoo.variants.get_value("mini").components.locate())
    plain.set_progress_bar_config(disable=True)
    prompt = "pizza, 3d emoji"
    np.testing.assert_array_equal(draw(plain, prompt, steps=2), draw(mini, prompt, steps=2))


def test_the_fine_tune_draws_otherwise(mini: Any, zoo: Registry) -> None:
    prompt = "pizza, flat emoji"
    tuned = draw(open_pipeline(zoo, "mini-3d"), prompt)
    assert np.abs(tuned - draw(mini, prompt)).mean() > 0.01


def test_it_draws_at_twice_its_size_with_softmax_and_linear_attention(
    mini: Any, zoo: Registry, tmp_path: Path
) -> None:
    linzoo.convert("mini", tmp_path / "linfusion", registry=zoo)
    large = {"height": 256, "width": 256, "steps": 2}
    teacher = draw(mini, "red apple, noto emoji", **large)
    handle = linzoo.load(mini, tmp_path / "linfusion", registry=zoo)
    try:
        student = draw(mini, "red apple, noto emoji", **large)
        linear = len(handle.modules)
    finally:
        handle.unload()
    assert teacher.shape == student.shape == (1, 256, 256, 3)
    assert linear == 10
    assert np.abs(student - teacher).mean() > 0.005
    assert np.isfinite(student).all()
    np.testing.assert_array_equal(draw(mini, "red apple, noto emoji", **large), teacher)


def test_there_are_sixteen_prompts_in_words_that_it_knows(mini: Any) -> None:
    prompts = json.loads(Resource(*PROMPTS).locate().read_text(encoding="utf-8"))
    assert len(set(prompts)) == 16
    for prompt in prompts:
        assert len(mini.tokenizer(prompt).input_ids) <= mini.tokenizer.model_max_length
