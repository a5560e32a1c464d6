"""Several items of one prompt: each with a seed and a guidance scale of its own, the first as if it were the only one."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from linzoo.distillation.data.draw import TeacherDraws
from linzoo.distillation.data.items import Item
from linzoo.distillation.data.prompts import Prompts
from linzoo.distillation.data.sources import open_source
from linzoo.distillation.recipe import Data, Sampling


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\na fish\n")
    return path


def items(source: object, most: int | None = None) -> list[tuple[str, int]]:
    sampling = Sampling(per_prompt=3)
    found = open_source(Data(source=str(source), sampling=sampling), most)
    whole = [(item.caption, item.number) for _, item in found.items(0, 1)]
    assert found.count == len(whole)
    return whole


def test_every_prompt_comes_as_often_as_asked_and_a_second_time_after_all(file: Path) -> None:
    found = items(file)
    assert len(set(found)) == len(found) == 9
    assert [number for _, number in found] == [0] * 3 + [1] * 3 + [2] * 3
    assert items(file, 4) == found[:4]
    assert Prompts(file).stamp != Prompts(file, per_prompt=3).stamp


def test_items_of_one_prompt_are_drawn_differently_and_the_first_as_ever() -> None:
    size = (16, 16)
    once = TeacherDraws(tiny.tiny_sd(), [size], Sampling())
    often = TeacherDraws(tiny.tiny_sd(), [size], Sampling(per_prompt=20))
    assert often.about == once.about  # what is drawn already is drawn already
    found = [often.views(Item("a cat", "a cat", number=number)) for number in range(20)]
    assert found[0] == once.views(Item("a cat", "a cat"))
    assert len({key for key, _ in found}) == 1  # held out together
    assert len({views[0].key for _, views in found}) == 20
    details = [views[0].details for _, views in found]
    assert {each["prompt"] for each in details} == {"a cat"}
    assert len({each["seed"] for each in details}) == 20
    assert len({each["guidance"] for each in details}) > 4
