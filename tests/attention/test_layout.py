"""The tensors of generalized linear attention: the counts of the published checkpoints."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from linzoo.attention.layout import generalized_linear_tensors, projection_mid_dim
from linzoo.errors import UsageError

SD = [(320, 8)] * 5 + [(640, 8)] * 5 + [(1280, 8)] * 6
XL = [(640, 10)] * 10 + [(1280, 20)] * 60


@pytest.mark.parametrize(
    ("sites", "options", "parameters", "tensors"),
    [
        (SD, {}, 99_235_520, 272),
        (SD, {"projection_mid_divisor": 16}, 52_701_320, 272),
        (XL, {}, 819_948_800, 1190),
        (XL, {"projection_mid_divisor": 16}, 435_480_800, 1190),
        (XL, {"projection_mid_dim": -1}, 409_683_200, 350),
    ],
)
def test_counts(sites: list, options: dict[str, int], parameters: int, tensors: int) -> None:
    layouts = [generalized_linear_tensors(dim, heads, options) for dim, heads in sites]
    assert sum(prod(shape) for layout in layouts for shape in layout.values()) == parameters
    assert sum(map(len, layouts)) == tensors


def test_shapes_of_the_branch() -> None:
    shapes = generalized_linear_tensors(64, 4, {"projection_mid_dim": 6})
    assert {name: shape for name, shape in shapes.items() if name.startswith("to_k_")} == {
        "to_k_.0.weight": (6, 64), "to_k_.0.bias": (6,), "to_k_.1.weight": (6,), "to_k_.1.bias": (6,),
        "to_k_.3.weight": (64, 6), "to_k_.3.bias": (64,),
    }  # fmt: skip
    assert shapes["to_out.0.bias"] == (64,)


@pytest.mark.parametrize(
    ("options", "mid_dim"),
    [({}, None), ({"projection_mid_dim": None, "projection_mid_divisor": None}, None), ({"projection_mid_dim": -1}, -1),
     ({"projection_mid_dim": 7}, 7), ({"projection_mid_divisor": 16}, 20)],
)  # fmt: skip
def test_projection_mid_dim(options: dict[str, Any], mid_dim: int | None) -> None:
    assert projection_mid_dim(320, options) == mid_dim


@pytest.mark.parametrize(
    "options",
    [{"projection_mid_dim": 0}, {"projection_mid_dim": -2}, {"projection_mid_dim": 1.5}, {"projection_mid_dim": True},
     {"projection_mid_divisor": 0}, {"projection_mid_divisor": 7}, {"projection_mid_divisor": "16"},
     {"projection_mid_dim": 20, "projection_mid_divisor": 16}],
)  # fmt: skip
def test_values_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="projection_mid_"):
        projection_mid_dim(320, options)
