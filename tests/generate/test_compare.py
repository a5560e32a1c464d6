from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import SD_SITES, tiny_sd, tiny_sdxl

import linzoo
from linzoo.errors import LinzooError, UsageError
from linzoo.generate.compare import Settings, compare, draw

PROMPTS = ["a cat", "a dog", "a red apple"]
QUICK = Settings(size=(16, 16), steps=2)


def difference(first: Image.Image, second: Image.Image) -> int:
    return int(np.abs(np.asarray(first, np.int16) - np.asarray(second, np.int16)).max())


def test_the_same_seed_draws_the_same_picture_in_any_batch() -> None:
    pipe = tiny_sd()
    one_by_one = draw(pipe, PROMPTS, QUICK)
    together = draw(pipe, PROMPTS, Settings(size=(16, 16), steps=2, batch=2))
    third = draw(pipe, PROMPTS[2:], Settings(size=(16, 16), steps=2, seed=2))[0]
    assert [image.size for image in one_by_one] == [(16, 16)] * 3
    assert max(difference(*pair) for pair in zip(one_by_one, together, strict=True)) <= 1
    assert difference(third, one_by_one[2]) == 0
    assert difference(one_by_one[0], one_by_one[1]) > 5


def test_draws_what_the_pipeline_draws_by_itself() -> None:
    for pipe in (tiny_sd(), tiny_sdxl()):
        want = pipe(
            "a cat", num_inference_steps=2, guidance_scale=7.5, generator=torch.Generator().manual_seed(4)
        )
        assert difference(draw(pipe, ["a cat"], Settings(steps=2, seed=4))[0], want.images[0]) == 0
    unlike = draw(tiny_sd(), ["a cat"], Settings(steps=2, seed=4, negative="a dog"))[0]
    assert difference(unlike, draw(tiny_sd(), ["a cat"], Settings(steps=2, seed=4))[0]) > 0


def test_width_comes_before_height_and_the_size_of_the_model_is_the_default() -> None:
    pipe = tiny_sd()
    assert draw(pipe, ["a cat"], Settings(size=(24, 16), steps=1))[0].size == (24, 16)
    assert draw(pipe, ["a cat"], Settings(steps=1))[0].size == (16, 16)


@pytest.mark.parametrize("size", [(17, 16), (16, 0), (0, 8)])
def test_a_size_that_cannot_be_drawn_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=f"multiple of 8.*{size[0]}x{size[1]}"):
        Settings(size=size)


def test_a_lack_of_memory_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_sd()
    with pytest.raises(
        LinzooError, match="Not enough memory on cpu to draw 2 at a time at 99999992x99999992"
    ):
        draw(pipe, ["a cat"], Settings(size=(99_999_992, 99_999_992), steps=1, batch=2))

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(pipe.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        draw(pipe, ["a cat"], Settings(size=(16, 16), steps=1))


def test_teacher_and_student_start_from_the_same_noise(linfusion: Path) -> None:
    pipe = tiny_sd()
    teacher = draw(pipe, PROMPTS, QUICK)
    handle = linzoo.load(pipe, linfusion)
    student = draw(pipe, PROMPTS, QUICK)
    steps: list[int] = []
    pairs = compare(pipe, handle, PROMPTS, QUICK, steps.append)
    assert [(pair.prompt, pair.seed) for pair in pairs] == list(zip(PROMPTS, range(3), strict=True))
    for pair, a, b in zip(pairs, teacher, student, strict=True):
        assert (difference(pair.teacher, a), difference(pair.student, b)) == (0, 0)
        assert difference(pair.teacher, pair.student) > 0
    assert sum(steps) == 2 * len(PROMPTS) * QUICK.steps
    assert len(handle.modules) == SD_SITES
