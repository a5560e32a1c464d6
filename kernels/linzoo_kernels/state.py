"""What the queries need to know of the keys and values: sums, whose size does not depend on the number of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class LinearState:
    """Sums over keys and values. States of parts of the tokens add up to the state of all of them.

    Attributes:
        sums: (B, H, d*dv + d), float32 or float64: ``sum_j phi(k_j)^T v_j`` row by row, then ``sum_j phi(k_j)``,
            with ``phi = elu + 1``.
        count: how many tokens were summed.
        head_dim: d.
    """

    sums: Tensor
    count: int
    head_dim: int

    @property
    def kv(self) -> Tensor:
        """``sum_j phi(k_j)^T v_j``, a view, (B, H, d, dv)."""
        return self.sums[..., : -self.head_dim].unflatten(-1, (self.head_dim, -1))

    @property
    def k(self) -> Tensor:
        """``sum_j phi(k_j)``, a view, (B, H, d)."""
        return self.sums[..., -self.head_dim :]

    def __add__(self, other: LinearState) -> LinearState:
        """The state of both parts' tokens.

        Raises:
            ValueError: the states differ in shape, dtype or device.
        """
        mine, its = self._kind(), other._kind()
        if mine != its:
            raise ValueError(
                f"LinearState + LinearState: the left one is {mine}, the right one {its}; only states of the same"
                " batch, heads, head dims, dtype and device add up."
            )
        return LinearState(self.sums + other.sums, self.count + other.count, self.head_dim)

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> LinearState:
        """The state of the tokens of all processes of ``group``, on every one of them; gradients flow back to each.

        A collective call: every process of the group makes it.
        """
        raise NotImplementedError

    def _kind(self) -> str:
        shape = f"(B, H, d, dv) = {tuple(self.kv.shape)}"
        return f"{shape} {self.sums.dtype} on {self.sums.device}"
