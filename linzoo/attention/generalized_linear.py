"""LinFusion's mixer: generalized linear attention, normalised and non-causal."""

from __future__ import annotations

from typing import Any

import torch
from linzoo_kernels import FuseError, fuse_projections, linear_attention, unfuse
from linzoo_kernels.fuse import FUSED, FusedProjections
from linzoo_kernels.origin import Watched
from torch import nn

from linzoo.attention.errors import FoldError
from linzoo.attention.layout import NO_BRANCH, projection_mid_dim
from linzoo.attention.leaves import LEAVES
from linzoo.attention.mounted import MountedAttention


class GeneralizedLinearAttention(MountedAttention):
    """``q = elu(Wq (x + f(x))) + 1``, ``k = elu(Wk (x + g(x))) + 1``, ``v = Wv x``; see :mod:`linzoo_kernels`.

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
        return linear_attention(
            self.to_q(hidden_states + self.to_q_(hidden_states)),
            self.to_k(hidden_states + self.to_k_(hidden_states)),
            self.to_v(hidden_states),
            heads=self.heads,
            key_weights=key_weights,
        )

    def mix_and_project(self, hidden_states: torch.Tensor, key_weights: torch.Tensor | None) -> torch.Tensor:
        """The same with ``to_out``; of a folded layer, with the products of its weights.

        Raises:
            FoldError: the layer is folded, and its weights have changed, carry adapters or are to be trained.
        """
        folded = self.folded
        if folded is None:
            return super().mix_and_project(hidden_states, key_weights)
        try:
            folded.check(self)
            output: torch.Tensor = folded(hidden_states, key_weights)
        except FuseError as error:
            raise FoldError(
                f"A folded layer cannot go on: {error} (handle.unfold() does without the products, handle.fold() makes them "
                "anew.)"
            ) from error
        return output

    @property
    def folded(self) -> FusedProjections | None:
        """The products of the weights that the layer computes with while it is folded."""
        folded: FusedProjections | None = self._modules.get(FUSED)
        return folded

    def fold(self) -> None:
        """Compute with products of the weights from now on. Does nothing if it does; renews what no longer holds.

        Raises:
            FuseError: the layer carries adapters, or its weights are quantised or not in memory.
        """
        if self.folded is None or not self.folded.is_current(self):
            self.unfold()
            fuse_projections(self)
            self.own_children += (FUSED,)

    def unfold(self) -> None:
        """Compute with the weights themselves, which folding does not change. Does nothing if the layer is not folded."""
        unfuse(self)
        self.own_children = tuple(name for name in self.own_children if name != FUSED)

    def __setattr__(self, name: str, value: Any) -> None:
        """Notice a leaf that is replaced: a LoRA put on, fused and taken off again leaves no other trace."""
        super().__setattr__(name, value)
        if name in LEAVES.values() and self.folded is not None:
            self.folded.expire()


def _branch(dim: int, mid_dim: int | None) -> nn.Module:
    if mid_dim == NO_BRANCH:
        return nn.Identity()
    width = dim if mid_dim is None else mid_dim
    return Watched(nn.Linear(dim, width), nn.LayerNorm(width), nn.LeakyReLU(0.01), nn.Linear(width, dim))
