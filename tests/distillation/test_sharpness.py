"""Sharper features: what is searched, what is chosen, and that the weights then say it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from distilling import student_of
from linzoo_kernels import linear_attention
from linzoo_kernels.reference import EPS
from tiny import tiny_unet, write_linfusion
from torch.nn import functional as F

from linzoo.attention.handle import read_linfusion
from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.paired import Moments, PairedDirections
from linzoo.distillation.sharpness import HeadSharpness, LayerSharpness, SharpnessSearch
from linzoo.distillation.student import Student

NAME = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
WIDTH, HEADS = 32, 4
HEAD = WIDTH // HEADS


@pytest.fixture
def layer() -> MountedAttention:
    return student_of(tiny_unet(), of_teacher=True).layers[NAME]


def tokens(seed: int = 1) -> torch.Tensor:
    """Tokens as layer normalisation leaves them."""
    random = torch.Generator().manual_seed(seed)
    gain, bias = torch.rand(WIDTH, generator=random) + 0.5, torch.randn(WIDTH, generator=random)
    return F.layer_norm(torch.randn(3, 40, WIDTH, generator=random), (WIDTH,), gain, bias)


def moments_of(*batches: torch.Tensor) -> Moments:
    moments = Moments()
    for each in batches:
        moments.add(each)
    return moments


def searched(layer: MountedAttention, x: torch.Tensor, scales: tuple, shifts: tuple) -> SharpnessSearch:
    search = SharpnessSearch(scales, shifts)
    with torch.no_grad():
        search.measure(NAME, layer, x, x)
        search.compare(NAME, layer, x[:1], x[:1])
        search.compare(NAME, layer, x[1:], x[1:])
    return search


def queries_and_keys(layer: MountedAttention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return layer.to_q(x + layer.to_q_(x)), layer.to_k(x + layer.to_k_(x))


def test_moments_of_parts_are_those_of_the_whole() -> None:
    x = tokens()
    moments = moments_of(x[:1], x[1:])
    rows = x.flatten(0, 1).double().numpy()
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), atol=1e-12)


def test_paired_directions_are_opposed_and_say_most_of_the_scores(layer: MountedAttention) -> None:
    x = tokens()
    paired = PairedDirections(layer, moments_of(x))
    centred = x.flatten(0, 1).double() - moments_of(x).mean
    half = HEAD // 2
    for head in range(HEADS):
        rows = slice(head * HEAD, (head + 1) * HEAD)
        q, k = paired.q[rows], paired.k[rows]
        torch.testing.assert_close(q[half:], -q[:half])
        weights = [layer.teacher[each].weight[rows].detach().double() for each in ("q", "k")]
        scores = centred @ weights[0].T @ weights[1] @ centred.T * HEAD**-0.5
        told = centred @ q[:half].T @ k[:half] @ centred.T
        least = torch.linalg.svdvals(scores)[half:].square().sum()
        assert (scores - told).square().sum() == pytest.approx(float(least), rel=1e-3)


def test_written_weights_make_the_scaled_and_shifted_directions(layer: MountedAttention) -> None:
    x = tokens()
    paired = PairedDirections(layer, moments_of(x))
    heads = [HeadSharpness(2.0, 4.0, 0.0), HeadSharpness(3.0, 6.0, 0.0)] * 2
    search = searched(layer, x, (1.0,), (2.0,))
    search.apply({NAME: layer}, {NAME: LayerSharpness("paired", tuple(heads))})
    for found, directions in zip(queries_and_keys(layer, x), (paired.q, paired.k), strict=True):
        wanted = F.linear(x, directions.float())
        for head, each in enumerate(heads):
            rows = slice(head * HEAD, (head + 1) * HEAD)
            torch.testing.assert_close(
                found[..., rows], each.scale * wanted[..., rows] - each.shift, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("tokens_each", [10, 160])
def test_a_rows_weights_sum_to_more_than_eps_at_any_number_of_tokens(
    layer: MountedAttention, tokens_each: int
) -> None:
    x, shift = tokens(), 4.0
    paired = PairedDirections(layer, moments_of(x))
    longer = x.repeat(1, 4, 1)[:, :tokens_each]
    q, k = (
        F.elu((longer.double() @ each.T - shift).unflatten(-1, (HEADS, HEAD))) + 1
        for each in (paired.q, paired.k)
    )
    sums = torch.einsum("bihd,bjhd->bih", q, k) / tokens_each
    assert sums.min() >= HEAD * np.exp(-2 * shift)
    assert sums.min() > 20 * EPS


def test_own_scales_multiply_each_heads_rows(layer: MountedAttention) -> None:
    x = tokens()
    before = queries_and_keys(layer, x)
    heads = tuple(HeadSharpness(scale, 0.0, 0.0) for scale in (1.0, 2.0, 3.0, 4.0))
    SharpnessSearch((1.0,), ()).apply({NAME: layer}, {NAME: LayerSharpness("own", heads)})
    scales = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat_interleave(HEAD)
    for old, new in zip(before, queries_and_keys(layer, x), strict=True):
        torch.testing.assert_close(new, old * scales, atol=1e-5, rtol=1e-5)


def test_each_head_gets_the_scale_with_the_least_error(layer: MountedAttention) -> None:
    x = tokens()
    chosen = searched(layer, x, (0.5, 1.0, 2.0, 4.0), ()).best("own")[NAME]
    with torch.no_grad():
        q, k, v = (F.linear(x, layer.teacher[each].weight) for each in ("q", "k", "v"))
        wanted = F.scaled_dot_product_attention(
            *(each.unflatten(-1, (HEADS, HEAD)).transpose(1, 2) for each in (q, k, v))
        )
        own = queries_and_keys(layer, x)
        errors = []
        for scale in (0.5, 1.0, 2.0, 4.0):
            found = linear_attention(own[0] * scale, own[1] * scale, v, heads=HEADS)
            found = found.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)
            errors.append((found - wanted).square().sum((0, 2, 3)) / wanted.square().sum((0, 2, 3)))
    least, places = torch.stack(errors).min(0)
    assert [head.scale for head in chosen.heads] == [(0.5, 1.0, 2.0, 4.0)[place] for place in places]
    assert [head.error for head in chosen.heads] == pytest.approx(least.tolist(), rel=1e-4)


def test_sharp_attention_is_met_better_by_pairs_than_by_scales() -> None:
    unet = tiny_unet()
    with torch.no_grad():
        for leaf in ("to_q", "to_k"):
            unet.get_submodule(NAME).get_submodule(leaf).weight.mul_(3)
    layer = student_of(unet, of_teacher=True).layers[NAME]
    search = searched(layer, tokens(), (1.0, 2.0, 4.0), (2.0, 4.0, 6.0))
    own, best = search.best("own")[NAME], search.best("own", "paired")[NAME]
    assert best.basis == "paired"
    assert best.error < 0.8 * own.error


def test_a_layer_without_a_branch_keeps_its_own_directions(tmp_path) -> None:
    unet = tiny_unet()
    linfusion = read_linfusion(write_linfusion(unet, tmp_path / "linfusion", of_teacher=True, mid_dim=-1))
    layer = Student(unet, linfusion).layers[NAME]
    search = searched(layer, tokens(), (1.0, 2.0), (2.0, 4.0))
    assert search.best("own", "paired")[NAME].basis == "own"


def test_an_odd_width_of_heads_leaves_one_channel_alone() -> None:
    teacher = {each: torch.nn.Linear(10, 10, bias=False) for each in ("q", "k")}
    x = torch.randn(2, 30, 10, generator=torch.Generator().manual_seed(0))
    paired = PairedDirections(SimpleNamespace(heads=2, teacher=teacher), moments_of(x))
    assert paired.q.shape == (10, 10)
    assert (paired.q[4] == 0).all()
    assert (paired.k[9] == 0).all()


def test_degenerate_heads_and_tokens_give_finite_weights(layer: MountedAttention) -> None:
    with torch.no_grad():
        layer.teacher["q"].weight[:HEAD] = 0
        layer.teacher["k"].weight[HEAD + 1 : 2 * HEAD] = layer.teacher["k"].weight[HEAD]
    still, few = torch.ones(1, 9, WIDTH), tokens()[:1, :3]
    for x in (tokens(), few, still, 0 * still):
        search = searched(layer, x.repeat(2, 1, 1), (1.0, 3.0), (2.0, 4.0))
        search.apply({NAME: layer}, search.best("own", "paired"))
        assert all(weight.isfinite().all() for weight in layer.parameters())
        directions = PairedDirections(layer, moments_of(x))
        assert directions.q.isfinite().all()
        assert directions.k.isfinite().all()


def test_layers_that_cannot_shift_are_not_measured(layer: MountedAttention) -> None:
    search = SharpnessSearch((1.0,), (2.0,))
    other = SimpleNamespace(heads=HEADS)
    search.measure(NAME, other, tokens(), tokens())
    search.compare(NAME, other, tokens(), tokens())
    assert search.best("own", "paired") == {}
    search.measure(NAME, layer, tokens(), tokens())
    assert search._moments.keys() == {NAME}
