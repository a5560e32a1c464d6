"""Choosing the layers that are worth keeping softmax."""

from __future__ import annotations

import pytest
import torch
from distilling import sample, student_of
from tiny import tiny_scheduler, tiny_unet

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.noise import Noise
from linzoo.distillation.select import choose, scores


def test_a_score_is_the_kd_with_that_layer_alone_softmax() -> None:
    student = student_of(tiny_unet())
    evaluator = Evaluator(student, Noise(tiny_scheduler()), [sample(student.unet, 2)])
    before = evaluator.kd()
    found = scores(student, evaluator)
    assert list(found) == list(student.layers)
    assert evaluator.kd() == before
    name = next(iter(found))
    student.keep_softmax([name])
    assert evaluator.kd() == found[name]


def test_the_layer_that_is_worst_is_chosen_first() -> None:
    student = student_of(tiny_unet(), of_teacher=True)
    worst = list(student.layers)[1]
    with torch.no_grad():
        student.layers[worst].to_out[0].bias += 3
    evaluator = Evaluator(student, Noise(tiny_scheduler()), [sample(student.unet, 2)])
    found = scores(student, evaluator)
    assert choose(found, 1) == (worst,)
    assert found[worst] < 0.1 * evaluator.kd()


def test_choice_is_by_score_then_by_name() -> None:
    assert choose({"b": 2.0, "a": 2.0, "c": 1.0, "d": 3.0}, 3) == ("c", "a", "b")
    assert choose({"a": 1.0}, 0) == ()


def test_one_layer_has_to_stay_linear() -> None:
    with pytest.raises(DistillationError, match="keep_softmax is 2, but the student has 2"):
        choose({"a": 1.0, "b": 2.0}, 2)
