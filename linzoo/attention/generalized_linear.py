"""LinFusion's mixer: generalized linear attention, normalised and non-causal."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from linzoo.attention.layout import NO_BRANCH, projection_mid_dim
from linzoo.attention.mounted import MountedAttention
from linzoo.attention.operator import generalized_linear_attention


class GeneralizedLinearAttention(MountedAttention):
    """``q = elu(Wq (x + f(x))) + 1``, ``k = elu(Wk (x + g(x))) + 1``, ``v = Wv x``; see :mod:`.operator`.

    Source: LinFusion (arXiv 2409.02097, section 3) and its published code, whose checkpoints it reads.

    Attributes:
        to_q_: f, the small network beside the query projection.
        to_k_: g, the same for keys.
    """

    to_q_: nn.Module
    to_k_: nn.Module

    @classmethod
    def weights(cls, dim: int, heads: int, **options: Any) -> nn.ModuleDict:  # noqa: ARG003
        """The layer's weights in the official layout.

        The number of ``heads`` does not change them. The option ``projection_mid_dim`` is the width m inside f and g:
        None for ``dim``; -1 for the identity in their place, so that q = Wq(2x) as in the published code.
        """
        mid_dim = projection_mid_dim(dim, options)
        return nn.ModuleDict(
            {
                "to_q": nn.Linear(dim, dim, bias=False),
                "to_k": nn.Linear(dim, dim, bias=False),
                "to_v": nn.Linear(dim, dim, bias=False),
                "to_out": nn.ModuleList([nn.Linear(dim, dim)]),
                "to_q_": _branch(dim, mid_dim),
                "to_k_": _branch(dim, mid_dim),
            }
        )

    def mix(self, hidden_states: torch.Tensor, key_weights: torch.Tensor | None) -> torch.Tensor:
        """Equation of the class, over all heads."""
        return generalized_linear_attention(
            self.to_q(hidden_states + self.to_q_(hidden_states)),
            self.to_k(hidden_states + self.to_k_(hidden_states)),
            self.to_v(hidden_states),
            self.heads,
            key_weights,
        )


def _branch(dim: int, mid_dim: int | None) -> nn.Module:
    if mid_dim == NO_BRANCH:
        return nn.Identity()
    width = dim if mid_dim is None else mid_dim
    return nn.Sequential(
        nn.Linear(dim, width), nn.LayerNorm(width), nn.LeakyReLU(0.01), nn.Linear(width, dim)
    )
