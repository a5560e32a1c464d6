"""The tensors of generalized linear attention by name and shape, without torch (the official LinFusion layout)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linzoo.errors import UsageError

PROJECTIONS = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")
"""What a generalized linear attention shares with the softmax attention that it replaces."""

BRANCHES = ("to_q_", "to_k_")
"""The small networks f and g of the paper: Linear(C, m), LayerNorm(m), LeakyReLU, Linear(m, C)."""

NO_BRANCH = -1


def generalized_linear_tensors(
    dim: int,
    heads: int,  # noqa: ARG001 (the function of any mixer takes it)
    options: Mapping[str, Any],
) -> dict[str, tuple[int, ...]]:
    """Name the weights of one generalized linear attention.

    Args:
        dim: width C of the tokens.
        heads: number of heads; does not change the shapes.
        options: see :func:`projection_mid_dim`.

    Returns:
        Shape of each tensor by its name inside the module.
    """
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(PROJECTIONS, (dim, dim))
    shapes["to_out.0.bias"] = (dim,)
    mid_dim = projection_mid_dim(dim, options)
    if mid_dim == NO_BRANCH:
        return shapes
    width = dim if mid_dim is None else mid_dim
    for branch in BRANCHES:
        shapes |= {
            f"{branch}.0.weight": (width, dim),
            f"{branch}.0.bias": (width,),
            f"{branch}.1.weight": (width,),
            f"{branch}.1.bias": (width,),
            f"{branch}.3.weight": (dim, width),
            f"{branch}.3.bias": (dim,),
        }
    return shapes


def projection_mid_dim(dim: int, options: Mapping[str, Any]) -> int | None:
    """Return ``projection_mid_dim`` as a LinFusion checkpoint states it: None for C, -1 for no branch, or a width m.

    ``options`` holds it as it is (``projection_mid_dim``) or as a fraction of the width
    (``projection_mid_divisor``: the published SD-XL weights have C/16).

    Raises:
        UsageError: both are given, or the value is no positive integer that fits.
    """
    mid_dim, divisor = options.get("projection_mid_dim"), options.get("projection_mid_divisor")
    if mid_dim is not None and divisor is not None:
        raise UsageError("give either projection_mid_dim or projection_mid_divisor, not both")
    if divisor is not None:
        if not _is_positive(divisor) or dim % divisor:
            raise UsageError(f"projection_mid_divisor {divisor!r} does not divide the attention width {dim}")
        return dim // int(divisor)
    if mid_dim is not None and mid_dim != NO_BRANCH and not _is_positive(mid_dim):
        raise UsageError(
            f"projection_mid_dim must be a positive integer, -1 (no branch) or none, got {mid_dim!r}"
        )
    return mid_dim


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
