"""The operator in plain PyTorch: what a CPU runs, and a GPU that Triton does not serve.

Half precision is computed in float32, for sums over many tokens do not survive it; autocast is switched off inside.
Where nothing is recorded it walks over the tokens in pieces that stay in a CPU's cache and adds up the state: less
memory than the published order, and faster. Recorded by autograd, traced (torch.compile, export) or transformed (vmap)
it is one expression over all tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from linzoo_kernels.reference import EPS, normalised

CPU_PIECE = 2**20
"""Elements of a piece for each thread of a CPU, which takes the batch one by one: 4 MB of float32.

Measured on one thread 2**18 to 2**20 are equally fast; several threads have to meet the less often, the larger it is.
"""

DEVICE_PIECE = 2**25
"""The same elsewhere, where it only bounds the memory that a piece takes: 128 MB."""


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 if any of the tensors is."""
    return reduce(torch.promote_types, {x.dtype for x in tensors}, torch.float32)


def pieces(x: Tensor) -> list[tuple[slice, slice]]:
    """Where (B, L, C) is cut, over the batch and over the tokens, so that what a piece needs stays in cache."""
    batch, length, width = x.shape
    if x.device.type == "cpu":
        items, elements = 1, CPU_PIECE * torch.get_num_threads()
    else:
        items, elements = max(1, batch), DEVICE_PIECE // max(1, batch)
    rows = max(1, elements // width)
    cuts = product(range(0, batch, items), range(0, length, rows))
    return [(slice(b, b + items), slice(i, i + rows)) for b, i in cuts]


def without_autocast(device_type: str) -> AbstractContextManager[None]:
    """A block in which autocast leaves the operations of a device alone."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def linear_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, eps: float = EPS, key_weights: Tensor | None = None
) -> Tensor:
    """See :func:`linzoo_kernels.linear_attention`."""
    return apply_state(q, linear_attention_state(k, v, heads, key_weights), k.shape[1], heads, eps)


def linear_attention_state(k: Tensor, v: Tensor, heads: int, key_weights: Tensor | None = None) -> Tensor:
    """The sums over the keys, (B, H, d*dv + d), in float32 or float64; see :class:`linzoo_kernels.LinearState`."""
    dtype = accumulation_dtype(k, v)
    weights = None if key_weights is None else normalised(key_weights.to(dtype)).expand(k.shape[:2])
    with without_autocast(k.device.type):
        if _in_one(k, v, key_weights):
            kv, k_sum = _sums(k, v, weights, heads, dtype)
            return torch.cat([kv.flatten(-2), k_sum], dim=-1)
        dim, value_dim = k.shape[-1] // heads, v.shape[-1] // heads
        sums = k.new_empty(k.shape[0], heads, dim * value_dim + dim, dtype=dtype)
        kv, k_sum = _parts(sums, dim)
        for piece in pieces(k):
            batch, rows = piece
            write = Tensor.add_ if rows.start else Tensor.copy_
            weights_of_piece = None if weights is None else weights[piece]
            of_piece = _sums(k[piece], v[piece], weights_of_piece, heads, dtype)
            write(kv[batch], of_piece[0])
            write(k_sum[batch], of_piece[1])
        return sums


def apply_state(q: Tensor, sums: Tensor, count: int, heads: int, eps: float = EPS) -> Tensor:
    """What the queries read from the ``sums`` over ``count`` keys: (B, Lq, H*dv) in the dtype of ``q``."""
    means = sums.to(accumulation_dtype(q, sums)) / count
    with without_autocast(q.device.type):
        if _in_one(q, sums):
            weighted, weight = _read(q, means, heads, eps)
            return (weighted / weight).to(q.dtype).flatten(2)
        value_dim = sums.shape[-1] * heads // q.shape[-1] - 1
        out = q.new_empty(*q.shape[:2], heads, value_dim)
        for piece in pieces(q):
            weighted, weight = _read(q[piece], means[piece[0]], heads, eps)
            torch.div(weighted, weight, out=out[piece])
        return out.flatten(2)


def ln_leaky_relu(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, slope: float = 0.01) -> Tensor:
    """See :func:`linzoo_kernels.ln_leaky_relu`."""
    return F.leaky_relu(F.layer_norm(x, x.shape[-1:], weight.to(x.dtype), bias.to(x.dtype), eps), slope)


def _sums(
    k: Tensor, v: Tensor, weights: Tensor | None, heads: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``sum_j phi(k_j)^T v_j``, (B, H, d, dv), and ``sum_j phi(k_j)``, (B, H, d)."""
    key, value = _features(k, heads, dtype), v.to(dtype).unflatten(-1, (heads, -1))
    if weights is not None:
        key = key * weights[:, :, None, None]
    return key.permute(0, 2, 3, 1) @ value.transpose(1, 2), key.sum(dim=1)


def _read(q: Tensor, means: Tensor, heads: int, eps: float) -> tuple[Tensor, Tensor]:
    """The weighted sum of the values, (B, L, H, dv), and the sum of the weights, (B, L, H, 1)."""
    query = _features(q, heads, means.dtype).transpose(1, 2)
    kv, k = _parts(means, query.shape[-1])
    # On a CPU a product and a sum are faster than a matrix product of one column.
    weight = (query * k[..., None, :]).sum(dim=-1, keepdim=True) + eps
    return (query @ kv).transpose(1, 2), weight.transpose(1, 2)


def _parts(sums: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Views of the sums, (B, H, d, dv) and (B, H, d)."""
    return sums[..., :-dim].unflatten(-1, (dim, -1)), sums[..., -dim:]


def _features(x: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """``elu(x) + 1``, (B, L, H, d)."""
    features: Tensor = F.elu(x.to(dtype)).add_(1.0).unflatten(-1, (heads, -1))
    return features


def _in_one(*tensors: Tensor | None) -> bool:
    """Whether a loop that writes in place is out of the question, or of no use."""
    present = [x for x in tensors if x is not None]
    return (
        torch.compiler.is_compiling()
        or any(x.is_meta or type(x) not in (Tensor, torch.nn.Parameter) for x in present)
        or any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in present)
        or (torch.is_grad_enabled() and any(x.requires_grad for x in present))
    )
