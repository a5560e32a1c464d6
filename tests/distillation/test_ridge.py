"""The closed form of ``to_out``: against numpy's least squares, and at both ends of its strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from distilling import student_of
from tiny import tiny_unet

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.ridge import RidgeRegression
from linzoo.distillation.student import Student

NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
WIDTH = 32


@pytest.fixture(scope="module")
def student() -> Student:
    return student_of(tiny_unet())


def tokens(seed: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 50, WIDTH, generator=torch.Generator().manual_seed(seed))


def features(layer: MountedAttention, x: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        mixed = layer.mix(x, None).flatten(0, 1).double().numpy()
    return np.hstack([mixed, np.ones((len(mixed), 1))])


def regression_of(
    layer: MountedAttention, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> RidgeRegression:
    regression = RidgeRegression()
    with torch.no_grad():
        for x, y in batches:
            regression.add(NAME, layer, x, y)
    return regression


def test_without_strength_it_is_the_least_squares_solution(student: Student) -> None:
    layer = student.layers[NAME]
    batches = [(tokens(1), tokens(2)), (tokens(3), tokens(4))]
    found = regression_of(layer, batches).solve(NAME, 1e-12).numpy()
    rows = np.vstack([features(layer, x) for x, _ in batches])
    targets = np.vstack([y.flatten(0, 1).double().numpy() for _, y in batches])
    wanted, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_ridge_is_least_squares_with_rows_that_pull_to_the_present_weights(student: Student) -> None:
    layer = student.layers[NAME]
    x, y = tokens(1), tokens(2)
    found = regression_of(layer, [(x, y)]).solve(NAME, 0.03).numpy()
    rows = features(layer, x)
    present = np.vstack([layer.to_out[0].weight.detach().T, layer.to_out[0].bias.detach()[None]])
    pull = np.sqrt(0.03 * np.mean(np.sum(rows**2, axis=0))) * np.eye(WIDTH + 1)
    wanted, *_ = np.linalg.lstsq(
        np.vstack([rows, pull]), np.vstack([y.flatten(0, 1).double().numpy(), pull @ present]), rcond=None
    )
    np.testing.assert_allclose(found, wanted, atol=1e-8)


def test_with_all_strength_the_weights_stay(student: Student) -> None:
    layer = student.layers[NAME]
    before = layer.to_out[0].weight.detach().clone(), layer.to_out[0].bias.detach().clone()
    regression_of(layer, [(tokens(1), tokens(2))]).apply({NAME: layer}, 1e12)
    torch.testing.assert_close(layer.to_out[0].weight.detach(), before[0], atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(layer.to_out[0].bias.detach(), before[1], atol=1e-7, rtol=1e-6)


def test_an_attention_that_can_be_met_exactly_is_met() -> None:
    student = student_of(tiny_unet())
    layer = student.layers[NAME]
    x = tokens(1)
    with torch.no_grad():
        wanted = (
            layer.mix(x, None) @ torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(9)) + 1
        )
        regression_of(layer, [(x, wanted)]).apply({NAME: layer}, 1e-12)
        torch.testing.assert_close(layer.mix_and_project(x, None), wanted, atol=1e-4, rtol=1e-4)
