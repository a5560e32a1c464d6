"""What the queries need to know of the keys and values: sums, whose size does not depend on the number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
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
        kv: Tensor = self.sums[..., : -self.head_dim].unflatten(-1, (self.head_dim, -1))
        return kv

    @property
    def k(self) -> Tensor:
        """``sum_j phi(k_j)``, a view, (B, H, d)."""
        return self.sums[..., -self.head_dim :]

    def __add__(self, other: LinearState) -> LinearState:
        """The state of the tokens of both.

        Raises:
            ValueError: they differ in batch, heads, head dims, dtype or device.
        """
        if not isinstance(other, LinearState):
            return NotImplemented
        if self._kind() != other._kind():
            raise ValueError(
                f"the left state is {self._kind()} and the right one {other._kind()}: states add up only where batch,"
                " heads, head dims, dtype and device are the same."
            )
        return LinearState(self.sums + other.sums, self.count + other.count, self.head_dim)

    def __radd__(self, other: int) -> LinearState:
        """For ``sum(states)``, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __repr__(self) -> str:
        return f"LinearState of {self.count} tokens, {self._kind()}"

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> LinearState:
        """The state of the tokens of all processes of ``group``, on every one of them; None is the default group.

        A collective call: every process makes it, and every one that made it makes the backward, in which the
        gradients of all processes are added up.
        """
        count = torch.tensor(self.count, device=self.sums.device)
        dist.all_reduce(count, group=group)
        sums: Tensor = _AllReduce.apply(self.sums, group)  # type: ignore[no-untyped-call]
        return LinearState(sums, int(count), self.head_dim)

    def _kind(self) -> str:
        return f"(B, H, d, dv) = {tuple(self.kv.shape)} {self.sums.dtype} on {self.sums.device}"


class _AllReduce(torch.autograd.Function):
    """The sum over processes, whose gradient is the sum over processes. (torch's own is imported with triton.)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        dx: Tensor = _AllReduce.apply(grad, ctx.group)  # type: ignore[no-untyped-call]
        return dx, None
