"""Aspect-ratio buckets: no larger than the size they stand for, and the nearest is taken."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linzoo.distillation.data.buckets import bucket_sizes, nearest
from linzoo.distillation.recipe import Buckets

sides = st.integers(8, 128).map(lambda number: 8 * number)
settings = st.builds(Buckets, step=st.sampled_from([8, 32, 64]), max_aspect_ratio=st.floats(1, 4))


def test_the_buckets_of_512() -> None:
    expected = [(384, 640), (448, 576), (512, 512), (576, 448), (640, 384)]
    assert bucket_sizes((512, 512), Buckets()) == expected


def test_without_buckets_there_is_one_size() -> None:
    assert bucket_sizes((512, 768), None) == [(512, 768)]


@given(st.tuples(sides, sides), settings)
def test_buckets_hold_the_size_itself_and_nothing_larger(size: tuple[int, int], buckets: Buckets) -> None:
    found = bucket_sizes(size, buckets)
    assert size in found
    for width, height in set(found) - {size}:
        assert width * height <= size[0] * size[1]
        assert width % buckets.step == height % buckets.step == 0
        assert max(width / height, height / width) <= buckets.max_aspect_ratio


@given(st.tuples(sides, sides), settings)
def test_no_bucket_is_left_out_for_being_wasteful(size: tuple[int, int], buckets: Buckets) -> None:
    for width, height in set(bucket_sizes(size, buckets)) - {size}:
        assert width * (height + buckets.step) > size[0] * size[1]


@given(st.tuples(sides, sides), settings, st.integers(1, 5000), st.integers(1, 5000))
def test_the_nearest_shape_is_taken(size: tuple[int, int], buckets: Buckets, width: int, height: int) -> None:
    found = bucket_sizes(size, buckets)

    def off(each: tuple[int, int]) -> float:
        return abs(math.log(each[0] / each[1]) - math.log(width / height))

    assert off(nearest(found, (width, height))) == min(map(off, found))


@pytest.mark.parametrize(
    ("picture", "bucket"),
    [
        ((1000, 1000), (512, 512)),
        ((1920, 1080), (640, 384)),
        ((1080, 1920), (384, 640)),
        ((800, 600), (576, 448)),
    ],
)
def test_usual_shapes(picture: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert nearest(bucket_sizes((512, 512), Buckets()), picture) == bucket
