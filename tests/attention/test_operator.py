from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.attention.operator import feature_map, generalized_linear_attention, read, summarise

sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 2),
        "tokens": st.integers(1, 33),
        "heads": st.sampled_from([1, 2, 4]),
        "width": st.integers(1, 5),
        "seed": st.integers(0, 10_000),
    }
)


def qkv(batch: int, tokens: int, heads: int, width: int, seed: int) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, tokens, heads * width, generator=random) for _ in range(3))


@settings(deadline=None, max_examples=60)
@given(sizes)
def test_agrees_with_the_definition(size: dict[str, int]) -> None:
    q, k, v = qkv(**size)
    got = generalized_linear_attention(q, k, v, size["heads"])
    want = oracle.attend(*(each.double().numpy() for each in (q, k, v)), size["heads"])
    assert np.abs(got.numpy() - want).max() <= 1e-6


@pytest.mark.parametrize("tokens", [1, 7, 256, 1025])
def test_agrees_with_the_definition_in_float64_at_any_length(tokens: int) -> None:
    q, k, v = (each.double() for each in qkv(2, tokens, 2, 8, seed=tokens))
    got = generalized_linear_attention(q, k, v, 2)
    assert got.dtype == torch.float64
    assert np.abs(got.numpy() - oracle.attend(q.numpy(), k.numpy(), v.numpy(), 2)).max() <= 1e-13


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_weights_are_positive_and_sum_to_one_but_for_the_epsilon(size: dict[str, int]) -> None:
    q, k, _ = qkv(**size)
    features_q, features_k = feature_map(q.double()), feature_map(k.double())
    ones = torch.ones(*k.shape[:-1], 1, dtype=torch.float64)
    sums = read(features_q, summarise(features_k, ones))
    influence = features_q @ features_k.mean(dim=-2, keepdim=True).mT
    assert (features_q > 0).all()
    torch.testing.assert_close(sums, influence / (influence + 1e-4))
    assert (sums < 1).all()


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_the_order_of_tokens_does_not_matter(size: dict[str, int]) -> None:
    q, k, v = qkv(**size)
    order = torch.randperm(size["tokens"], generator=torch.Generator().manual_seed(size["seed"]))
    straight = generalized_linear_attention(q, k, v, size["heads"])
    shuffled = generalized_linear_attention(q[:, order], k[:, order], v[:, order], size["heads"])
    torch.testing.assert_close(shuffled, straight[:, order], atol=1e-6, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(sizes, st.integers(1, 32))
def test_tokens_may_be_summarised_and_read_in_chunks(size: dict[str, int], chunk: int) -> None:
    q, k, v = (each.double() for each in qkv(**size))
    q, k = feature_map(q), feature_map(k)
    whole = summarise(k, v)
    chunks = [
        (summarise(a, b), a.shape[1]) for a, b in zip(k.split(chunk, 1), v.split(chunk, 1), strict=True)
    ]
    for name in ("kv", "k"):
        mean = sum(getattr(state, name) * count for state, count in chunks) / size["tokens"]
        torch.testing.assert_close(mean, getattr(whole, name))
    torch.testing.assert_close(torch.cat([read(a, whole) for a in q.split(chunk, 1)], 1), read(q, whole))


@settings(deadline=None, max_examples=30)
@given(sizes.filter(lambda size: size["tokens"] > 1), st.data())
def test_a_key_of_weight_zero_is_as_if_not_there(size: dict[str, int], data: st.DataObject) -> None:
    q, k, v = (each.double() for each in qkv(**size))
    kept = data.draw(st.integers(1, size["tokens"] - 1))
    weights = (torch.arange(size["tokens"]) < kept).double()[None]
    masked = generalized_linear_attention(q, k, v, size["heads"], weights)
    shorter = generalized_linear_attention(q[:, :kept], k[:, :kept], v[:, :kept], size["heads"])
    torch.testing.assert_close(masked[:, :kept], shorter)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_rounded_at_the_end(dtype: torch.dtype) -> None:
    q, k, v = (30 * each.to(dtype) for each in qkv(1, 4096, 2, 16, seed=3))
    got = generalized_linear_attention(q, k, v, 2)
    exact = generalized_linear_attention(q.float(), k.float(), v.float(), 2)
    assert got.dtype == dtype
    torch.testing.assert_close(got, exact.to(dtype), atol=0, rtol=0)


def test_autocast_does_not_lower_the_precision() -> None:
    q, k, v = qkv(1, 512, 2, 16, seed=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = generalized_linear_attention(q, k, v, 2)
    assert torch.equal(inside, generalized_linear_attention(q, k, v, 2))
