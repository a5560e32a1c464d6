"""The shape table against the configs of the real UNets."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from linzoo_benchmarks.shapes import (
    FBI_LA,
    MODELS,
    PIXELS,
    Shape,
    all_shapes,
    distinct,
    model_shape,
    select_shapes,
    small_shapes,
)
from unet_configs import UNETS

from linzoo.attention.plan import sites_of
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.errors import UsageError

LATENT = 8


@pytest.mark.parametrize("model", MODELS)
def test_levels_are_those_of_the_unet(model: str) -> None:
    config = UNETS[model]
    sites = sites_of(config, unet_manifest(config))
    levels = len(config["block_out_channels"])
    found = Counter(
        (LATENT * 2 ** _halvings(site.name, levels), site.heads, site.dim // site.heads) for site in sites
    )
    assert found == {(at.edge, at.heads, at.head_dim): at.layers for at in MODELS[model]}


def _halvings(name: str, levels: int) -> int:
    """How many times the latents were halved before a block."""
    kind, _, rest = name.partition(".")
    if kind == "mid_block":
        return levels - 1
    index = int(rest.split(".")[0])
    return index if kind == "down_blocks" else levels - 1 - index


def test_tokens_of_sdxl_at_1024_pixels() -> None:
    assert model_shape("sdxl", 0, 1024, 2) == Shape("sdxl-0-1024px-b2", 2, 4096, 10, 64)
    assert model_shape("sd15", 0, 16384, 2).elements == 2 * 2048**2 * 320 > 2**31


def test_every_shape_of_the_issue_is_there_once() -> None:
    names = [shape.name for shape in all_shapes()]
    assert len(names) == len(set(names)) == 10 * len(PIXELS) * 2 + len(FBI_LA)
    assert names[0] == "sdxl-0-4096px-b2"
    assert {shape.batch for shape in all_shapes()} == {1, 2, 8}
    assert all(shape.batch == 8 and shape.channels == 1024 for shape in FBI_LA)


def test_levels_that_models_share_are_measured_once() -> None:
    shapes = distinct(all_shapes())
    assert len({shape.sizes for shape in shapes}) == len(shapes) < len(all_shapes())
    assert model_shape("sdxl", 0, 4096, 2) in shapes
    assert model_shape("sd21", 1, 4096, 2) not in shapes


def test_a_cpu_is_given_little() -> None:
    assert small_shapes()
    assert max(shape.elements for shape in small_shapes()) <= 16384 * 320


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["sdxl-*-512px-b1"], ["sdxl-0-512px-b1", "sdxl-1-512px-b1"]),
        (["2x65536x10x64", "sdxl-0-4096px-b2"], ["2x65536x10x64"]),
        (["fbi_la-16384"], ["fbi_la-16384"]),
    ],
)
def test_shapes_by_pattern_and_by_sizes(wanted: list[str], names: list[str]) -> None:
    assert [shape.name for shape in select_shapes(wanted)] == names


def test_sizes_are_read_in_their_order() -> None:
    (shape,) = select_shapes(["3x5x7x11"])
    assert shape.sizes == (3, 5, 7, 11)
    assert shape.elements == math.prod(shape.sizes)


@pytest.mark.parametrize("text", ["sd3-*", "2x65536x10", ""])
def test_what_stands_for_no_shape_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="No shape is called"):
        select_shapes([text])


@pytest.mark.parametrize("text", ["2x0x10x64", "0x64x2x8"])
def test_sizes_that_are_not_positive_are_told_as_such(text: str) -> None:
    with pytest.raises(UsageError, match=f"Sizes of '{text}' must be positive"):
        select_shapes([text])
