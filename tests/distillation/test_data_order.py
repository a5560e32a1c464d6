"""Which samples a step takes: all of them equally often, whatever was asked before."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from linzoo.distillation.data.order import _permutation, _schedule, batch_positions

counts_of = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_every_sample_comes_once_in_an_epoch(count: int, batch: int, seed: int) -> None:
    taken = [each for step in range(count) for each in batch_positions([count], seed, "a", step, batch)[1]]
    epochs = [taken[start : start + count] for start in range(0, len(taken), count)]
    assert len(epochs) == batch
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)


@given(counts_of, st.integers(1, 5), st.integers(0, 99))
def test_every_sample_of_every_bucket_comes_equally_often(counts: list[int], batch: int, seed: int) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for step in range(sum(counts)):
        bucket, positions = batch_positions(counts, seed, "a", step, batch)
        seen.update((bucket, position) for position in positions)
    assert seen == {(bucket, place): batch for bucket, count in enumerate(counts) for place in range(count)}


@given(counts_of, st.lists(st.integers(0, 200), min_size=1, max_size=6), st.integers(1, 5))
def test_the_answer_is_the_same_whatever_was_asked_before(
    counts: list[int], steps: list[int], batch: int
) -> None:
    after = [batch_positions(counts, 3, "a", step, batch) for step in steps]
    alone = []
    for step in steps:
        _schedule.cache_clear()
        _permutation.cache_clear()
        alone.append(batch_positions(counts, 3, "a", step, batch))
    assert after == alone


def test_seeds_and_stages_have_their_own_order() -> None:
    orders = {
        tuple(batch_positions([50], seed, stage, 0, 50)[1])
        for seed in (0, 1)
        for stage in ("align", "distill")
    }
    assert len(orders) == 4


def test_an_epoch_has_another_order_than_the_last() -> None:
    assert batch_positions([50], 0, "a", 0, 50) != batch_positions([50], 0, "a", 1, 50)


def test_the_order_is_that_of_every_other_machine() -> None:
    assert batch_positions([10], 0, "distill", 3, 4) == (0, [2, 1, 6, 0])
