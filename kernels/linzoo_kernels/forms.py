"""The two ways to compute a fused layer: which equals which, which is chosen where, and the second one's functions.

``merged``: q, k and v of one matrix product, the operator, then ``to_out``. Runs everywhere, on every backend.

``value-free``: neither v nor the operator's output ever exist. With phi the feature map, h a head,
``KV_h = phi(K_h)^T V_h = (phi(K_h)^T X) Wv_h^T``, so the state comes of the tokens themselves, and
``out = A blockstack_h(KV_h Wo_h^T) / count + bo`` with ``A = phi(Q) / z``, so ``to_out`` is part of the state. Two
products of C x C matrices with the tokens replace four, two of which are cut in heads: 4 C d multiplications a token less
(d the width of a head), for 4 C^2 d more a batch element. On a CPU it is the faster one from about 2 C tokens on, by 3 to
12 % of the layer.

On a GPU the merged form is taken. The features phi(K) and A would have to be written to memory and read again, unless
a matrix product made them as it reads its operand, which the libraries' products cannot: 1 unit of memory traffic more
than merged (a unit is one element a token and channel), where the operator's multiplications, hidden behind its memory
traffic, cost nothing. That is arithmetic and not measured.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from linzoo_kernels.reference import EPS, feature_map
from linzoo_kernels.torch_ops import accumulation_dtype, pieces

Form = Literal["merged", "value-free"]
FORMS: tuple[Form, ...] = get_args(Form)

TOKENS_PER_CHANNEL = 2
"""On a CPU, from how many tokens a channel the value-free form is the faster one."""


def choose_form(device_type: str, dtype: torch.dtype, tokens: int, channels: int) -> Form:
    """The faster form, as measured: on a CPU in float32, see above; where nothing is measured the merged one.

    The number of heads and the width of the branches f and g make no difference.
    """
    measured = device_type == "cpu" and dtype in (torch.float32, torch.float64)
    return "value-free" if measured and tokens >= TOKENS_PER_CHANNEL * channels else "merged"


def value_free_state(k: Tensor, x: Tensor, w_v: Tensor, heads: int) -> Tensor:
    """``linear_attention_state(k, x @ w_v.T)`` without the values.

    Args:
        k: keys, (B, L, C), not yet mapped to features.
        x: what the values would be projected from, (B, L, C).
        w_v: the projection, (C, C).
        heads: number of heads.

    Returns:
        The sums over the keys, (B, H, d*d + d).
    """
    dtype = accumulation_dtype(k)
    batch, _, width = k.shape
    of_tokens = k.new_zeros(batch, width, x.shape[-1], dtype=dtype)
    k_sum = k.new_zeros(batch, width, dtype=dtype)
    for piece in pieces(k):
        key = feature_map(k[piece].to(dtype))
        of_tokens[piece[0]].baddbmm_(key.transpose(1, 2), x[piece].to(dtype))
        k_sum[piece[0]] += key.sum(dim=1)
    kv = of_tokens.unflatten(1, (heads, -1)) @ w_v.to(dtype).unflatten(0, (heads, -1)).transpose(1, 2)
    return torch.cat([kv.flatten(2), k_sum.unflatten(1, (heads, -1))], dim=-1)


def apply_state_and_project(
    q: Tensor, sums: Tensor, count: int, w_out: Tensor, b_out: Tensor, eps: float = EPS
) -> Tensor:
    """``apply_state(q, sums) @ w_out.T + b_out``, with ``w_out`` multiplied into the state.

    Args:
        q: queries, (B, L, C), not yet mapped to features.
        sums: the state of ``count`` keys, (B, H, d*d + d).
        count: number of keys.
        w_out: (C, C).
        b_out: (C,).
        eps: added to the denominator.

    Returns:
        (B, L, C) in the dtype of ``q``.
    """
    heads, dim = sums.shape[1], q.shape[-1] // sums.shape[1]
    means = sums / count
    kv, k = means[..., :-dim].unflatten(-1, (dim, -1)), means[..., None, :, -dim:]
    w_state = (kv @ w_out.t().to(kv.dtype).unflatten(0, (heads, -1))).flatten(1, 2)
    out = q.new_empty(q.shape, dtype=kv.dtype)
    for piece in pieces(q):
        query = feature_map(q[piece].to(kv.dtype)).unflatten(-1, (heads, -1))
        z = (query * k[piece[0]]).sum(dim=-1, keepdim=True) + eps
        torch.baddbmm(b_out.to(kv.dtype), (query / z).flatten(2), w_state[piece[0]], out=out[piece])
    return out.to(q.dtype)
