"""The terms of the objective, each against a straightforward computation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from linzoo.distillation.objective import (
    feature_loss,
    guide,
    guided_loss,
    mean_square,
    relative_error,
    relative_huber,
    weight_at,
)
from linzoo.distillation.recipe import Weight

SHAPES = {"first": (4, 64, 32), "second": (4, 16, 64)}


def features(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: (index + 1) * torch.randn(shape, generator=random, dtype=torch.float64)
        for index, (name, shape) in enumerate(SHAPES.items())
    }


def test_a_weight_goes_along_half_a_cosine() -> None:
    weight = Weight(start=0.2, end=1.0)
    assert weight_at(weight, 0) == pytest.approx(0.2)
    assert weight_at(weight, 0.25) == pytest.approx(0.6 - 0.4 * math.sqrt(0.5))
    assert weight_at(weight, 0.5) == pytest.approx(0.6)
    assert weight_at(weight, 1) == pytest.approx(1.0)
    assert weight_at(Weight(start=0.3), 0.7) == 0.3


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_a_weight_stays_between_its_ends_and_never_turns(
    start: float, end: float, first: float, second: float
) -> None:
    weight = Weight(start=start, end=end)
    earlier, later = (weight_at(weight, progress) for progress in sorted((first, second)))
    assert min(start, end) - 1e-9 <= earlier <= max(start, end) + 1e-9
    assert (later - earlier) * (end - start) >= -1e-9


@given(st.floats(1, 12), st.floats(0.1, 10), st.integers(0, 2**31))
def test_the_guided_loss_of_independent_errors_is_about_that_of_one_output(
    scale: float, size: float, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    errors = size * torch.randn(2, 4, 64, 64, generator=random)
    expected = size**2 * (scale**2 + (scale - 1) ** 2) / (1 + scale**2)
    assert guided_loss(errors, torch.zeros_like(errors), scale).item() == pytest.approx(expected, rel=0.2)


def test_mean_square_and_its_gradient() -> None:
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(mean_square(x), x.square().mean((1, 2, 3)))
    assert torch.autograd.gradcheck(mean_square, (x[:, :1, :2, :2].detach().requires_grad_(),))
    (gradient,) = torch.autograd.grad(mean_square(x).sum(), x)
    torch.testing.assert_close(gradient, 2 * x / x[0].numel())
    (at_zero,) = torch.autograd.grad(mean_square(zero := torch.zeros(1, 4, requires_grad=True)).sum(), zero)
    assert torch.equal(at_zero, torch.zeros(1, 4))
    assert mean_square(x.to(torch.bfloat16)).dtype == torch.float32


def test_the_relative_error_knows_no_scale() -> None:
    student, teacher = features(0)["first"], features(1)["first"]
    expected = torch.stack(
        [F.mse_loss(mine, its) / its.square().mean() for mine, its in zip(student, teacher, strict=True)]
    )
    torch.testing.assert_close(relative_error(student, teacher), expected)
    torch.testing.assert_close(relative_error(100 * student, 100 * teacher), expected)
    assert relative_error(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_the_huber_loss_is_the_relative_error_near_the_teacher_and_linear_far_from_it() -> None:
    teacher = features(1)["first"]
    near = teacher + 1e-3 * features(0)["first"]
    torch.testing.assert_close(relative_huber(near, teacher), relative_error(near, teacher))
    rms = teacher.square().mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(
        relative_huber(teacher + 10 * rms, teacher), torch.full((4,), 2 * (10 - 0.5), dtype=torch.float64)
    )


@pytest.mark.parametrize("normalize", [False, True])
def test_the_feature_loss_is_the_mean_over_layers_by_sample(normalize: bool) -> None:
    student, teacher = features(0), features(1)
    loss = feature_loss(student, teacher, normalize=normalize)
    assert loss.shape == (4,)
    for row in range(4):
        errors = []
        for name in SHAPES:
            error = F.mse_loss(student[name][row], teacher[name][row])
            errors.append(error / teacher[name][row].square().mean() if normalize else error)
        torch.testing.assert_close(loss[row], torch.stack(errors).mean())
    if not normalize:
        published = sum(F.mse_loss(student[name], teacher[name]) for name in SHAPES) / len(SHAPES)
        torch.testing.assert_close(loss.mean(), published)


def test_guidance_is_that_of_the_pipelines() -> None:
    conditional, unconditional = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    outputs = torch.cat([conditional, unconditional])
    torch.testing.assert_close(guide(outputs, 7.5), unconditional + 7.5 * (conditional - unconditional))
    torch.testing.assert_close(guide(outputs, 1.0), conditional)


def test_the_guided_loss_is_the_error_of_the_guided_output() -> None:
    student, teacher = torch.randn(2, 6, 4, 8, 8, dtype=torch.float64)
    errors = guide(student, 4.0) - guide(teacher, 4.0)
    torch.testing.assert_close(guided_loss(student, teacher, 4.0), errors.square().mean((1, 2, 3)) / 17)
