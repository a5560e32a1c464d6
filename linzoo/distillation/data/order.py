"""Which samples a step trains on: a function of seed, stage and step alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def batch_positions(
    counts: Sequence[int], seed: int, stage: str, step: int, batch: int
) -> tuple[int, list[int]]:
    """Choose a bucket, and positions in it, for one step.

    A bucket's samples come in epochs, each in an order of its own, one after the other without a gap: a batch may end
    one epoch and begin the next. Among ``sum(counts)`` steps each bucket has as many as it has samples, in random
    order, so that every sample of every bucket comes exactly ``batch`` times in them.

    Args:
        counts: samples in each bucket, 1 or more.
        seed: of the recipe.
        stage: name of the stage; each has its own order.
        step: from 0.
        batch: samples of a step.
    """
    lap, place = divmod(step, sum(counts))
    buckets, visits = _schedule(tuple(counts), f"{seed}/{stage}/buckets/{lap}")
    bucket = int(buckets[place])
    count = counts[bucket]
    first = (lap * count + int(visits[place])) * batch
    positions = []
    for index in range(first, first + batch):
        epoch, offset = divmod(index, count)
        positions.append(int(_permutation(count, f"{seed}/{stage}/bucket {bucket}/{epoch}")[offset]))
    return bucket, positions


@lru_cache(maxsize=4)
def _schedule(counts: tuple[int, ...], key: str) -> tuple[Indices, Indices]:
    """For each step of a lap, its bucket, and how often that bucket has come before in the lap."""
    buckets = np.repeat(np.arange(len(counts)), counts)[_permutation(sum(counts), key)]
    visits = np.empty_like(buckets)
    for bucket, count in enumerate(counts):
        visits[buckets == bucket] = np.arange(count)
    return buckets, visits


@lru_cache(maxsize=32)
def _permutation(count: int, key: str) -> Indices:
    """Numbers below ``count`` in an order that depends on the key alone, on every machine and with every numpy."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    legacy: Any = np.random.RandomState(seed)  # the generator whose stream numpy promises never to change
    order: Indices = legacy.permutation(count)
    return order
