"""Random numbers that depend on nothing but seed, stage, step, purpose and place in the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from linzoo.distillation.batch import Batch, Conditioning, Draws


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 6))
def test_a_part_of_a_batch_draws_what_the_whole_does(seed: int, step: int, size: int, cut: int) -> None:
    cut = min(cut, size)
    whole = Draws(seed, "distill", step, range(size)).normal("noise", (2, 3))
    parts = [
        Draws(seed, "distill", step, slots).normal("noise", (2, 3))
        for slots in (range(cut), range(cut, size))
        if slots
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_draws_differ_by_seed_stage_step_purpose_and_slot() -> None:
    draws = [
        Draws(seed, stage, step, [slot]).uniform(purpose).item()
        for seed in (0, 1)
        for stage in ("align", "distill")
        for step in (0, 1)
        for slot in (0, 1)
        for purpose in ("caption", "timestep")
    ]
    assert len(set(draws)) == 32


def test_shared_draws_do_not_depend_on_the_part() -> None:
    assert Draws(3, "distill", 7, [0, 1]).shared("guided") == Draws(3, "distill", 7, [5]).shared("guided")


def test_draws_leave_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Draws(0, "align", 0, range(4)).normal("noise", (2,))
    assert torch.equal(torch.rand(1), expected)


def test_normal_draws_are_standard_normal() -> None:
    drawn = Draws(0, "align", 0, range(100)).normal("noise", (100,))
    assert drawn.mean().item() == pytest.approx(0, abs=0.05)
    assert drawn.std().item() == pytest.approx(1, abs=0.05)


def test_dropped_captions_keep_their_time_ids() -> None:
    own = Conditioning(torch.zeros(2, 3, 4), torch.zeros(2, 5), torch.arange(12.0).view(2, 6))
    empty = Conditioning(torch.ones(2, 3, 4), torch.ones(2, 5), torch.full((2, 6), -1.0))
    mixed = own.where(torch.tensor([True, False]), empty)
    assert mixed.text.mean(dim=(1, 2)).tolist() == [1, 0]
    assert mixed.pooled is not None
    assert mixed.pooled.mean(dim=1).tolist() == [1, 0]
    assert mixed.time_ids is own.time_ids


@pytest.mark.parametrize("sdxl", [False, True])
def test_rows_are_cut_and_put_together(sdxl: bool) -> None:
    further = (torch.rand(4, 5), torch.rand(4, 6)) if sdxl else ()
    whole = Conditioning(torch.rand(4, 3, 2), *further)
    again = whole.rows(slice(1, 4)).cat(whole.rows(torch.tensor([0])))
    order = torch.tensor([1, 2, 3, 0])
    assert torch.equal(again.text, whole.text[order])
    for found, all_rows in ((again.pooled, whole.pooled), (again.time_ids, whole.time_ids)):
        assert (found is None) is not sdxl
        assert all_rows is None or (found is not None and torch.equal(found, all_rows[order]))


def test_captions_are_dropped_by_sample_and_share() -> None:
    own, empty = Conditioning(torch.zeros(200, 3, 4)), Conditioning(torch.ones(200, 3, 4))
    batch, draws = Batch(torch.zeros(200, 4, 1, 1), own, empty), Draws(0, "distill", 0, range(200))
    assert batch.with_captions_dropped(0.0, draws).text.sum() == 0
    assert batch.with_captions_dropped(0.3, draws).text[:, 0, 0].mean().item() == pytest.approx(0.3, abs=0.1)
    assert batch.with_captions_dropped(1.0, draws).text.mean() == 1
