"""Aspect-ratio buckets: the sizes that pictures of other shapes than the recipe's are cropped to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from linzoo.distillation.data.items import Size
from linzoo.distillation.recipe import Buckets


def bucket_sizes(size: Size, buckets: Buckets | None) -> list[Size]:
    """The sizes that stand for ``size``: itself, and the largest of each width with no more pixels than it has.

    None is larger than ``size``, so that what fits in memory for one fits for all. Of two buckets of one height, the
    wider stays.
    """
    if buckets is None:
        return [size]
    area, widest = size[0] * size[1], {}
    for width in range(buckets.step, area // buckets.step + 1, buckets.step):
        height = area // width // buckets.step * buckets.step
        if max(width / height, height / width) <= buckets.max_aspect_ratio:
            widest[height] = width
    return sorted({size, *((width, height) for height, width in widest.items())})


def nearest(sizes: Sequence[Size], picture: Size) -> Size:
    """The bucket whose shape is most like the picture's, so that least is cropped; the larger of two."""
    shape = math.log(picture[0] / picture[1])
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - shape), -size[0] * size[1], size))
