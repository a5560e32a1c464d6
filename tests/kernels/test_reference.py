"""The reference is the published layer bit by bit, and the definition in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from definition import attend, tensors
from linzoo_kernels import reference
from torch import Tensor


def published(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """The steps of LinFusion's attention between its projections, one a line, in their order."""
    batch_size, sequence_length, inner_dim = query.shape
    head_dim = inner_dim // heads
    query = query.view(batch_size, -1, heads, head_dim).transpose(1, 2)
    key = key.view(batch_size, -1, heads, head_dim).transpose(1, 2)
    value = value.view(batch_size, -1, heads, head_dim).transpose(1, 2)
    query = F.elu(query) + 1.0
    key = F.elu(key) + 1.0
    z = query @ key.mean(dim=-2, keepdim=True).transpose(-2, -1) + 1e-4
    kv = (key.transpose(-2, -1) * (sequence_length**-0.5)) @ (value * (sequence_length**-0.5))
    hidden_states = query @ kv / z
    return hidden_states.transpose(1, 2).reshape(batch_size, -1, heads * head_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("length", "heads", "dim"), [(1, 1, 8), (77, 8, 40), (300, 5, 64), (65, 2, 160)])
def test_every_bit_is_that_of_the_published_order(
    length: int, heads: int, dim: int, dtype: torch.dtype
) -> None:
    q, k, v = tensors(2, length, heads, dim, dtype=dtype)
    got = reference.linear_attention(q, k, v, heads)
    assert got.dtype == dtype
    assert torch.equal(got, published(q, k, v, heads))


@pytest.mark.parametrize(("length", "keys"), [(1, 1), (2, 300), (63, 64), (300, 7)])
@pytest.mark.parametrize("value_dim", [8, 3])
def test_agrees_with_every_pair_of_tokens(length: int, keys: int, value_dim: int) -> None:
    q, k, v = tensors(2, length, 2, 8, keys=keys, value_dim=value_dim)
    torch.testing.assert_close(
        reference.linear_attention(q, k, v, 2), attend(q, k, v, 2), atol=1e-12, rtol=1e-12
    )


def test_key_weights_weigh_the_keys() -> None:
    q, k, v = tensors(2, 9, 2, 4, keys=12)
    weights = torch.rand(2, 12, dtype=torch.float64)
    got = reference.linear_attention(q, k, v, 2, key_weights=weights)
    torch.testing.assert_close(got, attend(q, k, v, 2, weights), atol=1e-12, rtol=1e-12)


def test_state_and_apply_are_the_same_function() -> None:
    q, k, v = tensors(2, 9, 2, 4, keys=12, value_dim=5)
    sums = reference.linear_attention_state(k, v, 2)
    assert sums.shape == (2, 2, 4 * 5 + 4)
    torch.testing.assert_close(reference.apply_state(q, sums, 12, 2), attend(q, k, v, 2), atol=1e-12, rtol=0)


def test_ln_leaky_relu_is_the_two_modules() -> None:
    norm, relu = torch.nn.LayerNorm(24), torch.nn.LeakyReLU(0.01)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(3, 5, 24)
    assert torch.equal(reference.ln_leaky_relu(x, norm.weight, norm.bias), relu(norm(x)))
