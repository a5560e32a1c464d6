"""The two ways to compute a fused layer: which equals which, which is chosen where, and the second one's functions.

``merged``: k and v of one matrix product, q of another, the operator, then ``to_out``. Runs everywhere, on every backend.

``value-free``: neither v nor the operator's output ever exist. With phi the feature map, h a head,
``KV_h = phi(K_h)^T V_h = (phi(K_h)^T X) Wv_h^T``, so the state comes of the tokens themselves, and
``out = A blockstack_h(KV_h Wo_h^T) / count + bo`` with ``A = phi(Q) / z``, so ``to_out`` is part of the state. 4 C d
multiplications a token less (d the width of a head), for 4 C^2 d more a batch element. And q and k need not exist as a
whole either: the tokens are worked through twice in pieces that stay in a CPU's cache, once for the state and once for the
output, with no more memory than that of tokens and output. On a CPU from about 3 C tokens on it takes less memory (41 %
of the merged form's at 16,384 tokens and C = 320, 64 % at 4,096 and C = 640) and, within what a busy machine's clock can
tell, the same time: 0.79 to 1.04 of the merged form's (least thread time of interleaved runs, one thread, float32;
C = 320, 640, 1280; 1,024 to 16,384 tokens; B = 1, 2). So it is chosen for its memory. With fewer tokens its C x C matrices
cost more than they save: 0.99 to 1.11 with 0.8 to 1.6 C tokens.

On a GPU the merged form is taken. The features phi(K) and A would have to be written to memory and read again, unless
a matrix product made them as it reads its operand, which the libraries' products cannot, while the operator's
multiplications are hidden behind its memory traffic. As written here it moves 43 numbers a token and channel in 63
operations, and the merged form 24 in 9 (C = 640, 4,096 tokens, counted). No GPU has measured it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from linzoo_kernels.reference import EPS, feature_map
from linzoo_kernels.torch_ops import accumulation_dtype

Form = Literal["merged", "value-free"]
FORMS: tuple[Form, ...] = get_args(Form)

TOKENS_PER_CHANNEL = 3
"""On a CPU, from how many tokens a channel the value-free form costs no time."""

PIECE = 2**20
"""Elements of a piece of the tokens in the value-free form: 4 MB of float32."""

Project = Callable[[Tensor], Tensor]
"""Queries or keys, (B, L, C), of tokens, (B, L, C); not yet mapped to features."""


def choose_form(device_type: str, dtype: torch.dtype, tokens: int, channels: int) -> Form:
    """The form that takes less memory where it takes no more time: measured on a CPU in float32, see above; else merged.

    The number of heads and the width of the branches f and g make no difference.
    """
    measured = device_type == "cpu" and dtype in (torch.float32, torch.float64)
    return "value-free" if measured and tokens >= TOKENS_PER_CHANNEL * channels else "merged"


def value_free_state(x: Tensor, keys: Project, w_v: Tensor, heads: int) -> Tensor:
    """``linear_attention_state(keys(x), x @ w_v.T, heads)`` without the values.

    Args:
        x: tokens, (B, L, C).
        keys: the keys of some of them.
        w_v: the projection of the values, (C, C).
        heads: number of heads.

    Returns:
        The sums over the keys, (B, H, d*d + d).
    """
    dtype = accumulation_dtype(x)
    batch, _, width = x.shape
    of_tokens = x.new_zeros(batch, width, width, dtype=dtype)
    k_sum = x.new_zeros(batch, width, dtype=dtype)
    for piece in _pieces(x):
        key = feature_map(keys(piece).to(dtype))
        of_tokens.baddbmm_(key.transpose(1, 2), piece.to(dtype))
        k_sum += key.sum(dim=1)
    kv = of_tokens.unflatten(1, (heads, -1)) @ w_v.to(dtype).unflatten(0, (heads, -1)).transpose(1, 2)
    return torch.cat([kv.flatten(2), k_sum.unflatten(1, (heads, -1))], dim=-1)


def apply_state_and_project(
    x: Tensor, queries: Project, sums: Tensor, w_out: Tensor, b_out: Tensor, eps: float = EPS
) -> Tensor:
    """``apply_state(queries(x), sums) @ w_out.T + b_out``, with ``w_out`` multiplied into the state.

    Args:
        x: tokens, (B, L, C).
        queries: the queries of some of them.
        sums: the state of as many keys, (B, H, d*d + d).
        w_out: (C, C).
        b_out: (C,).
        eps: added to the denominator.

    Returns:
        (B, L, C) in the dtype of ``x``.
    """
    heads, dim = sums.shape[1], x.shape[-1] // sums.shape[1]
    means = sums / x.shape[1]
    kv, k = means[..., :-dim].unflatten(-1, (dim, -1)), means[:, None, :, -dim:]
    w_state = (kv @ w_out.t().to(kv.dtype).unflatten(0, (heads, -1))).flatten(1, 2)
    out = x.new_empty(x.shape)
    for piece, out_piece in zip(_pieces(x), _pieces(out), strict=True):
        query = feature_map(queries(piece).to(kv.dtype)).unflatten(-1, (heads, -1))
        z = (query * k).sum(dim=-1, keepdim=True) + eps
        out_piece.copy_(torch.baddbmm(b_out.to(kv.dtype), (query / z).flatten(2), w_state))
    return out


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """(B, L, C) cut along the tokens."""
    pieces: tuple[Tensor, ...] = x.split(max(1, PIECE // max(1, x.shape[0] * x.shape[2])), dim=1)
    return pieces
