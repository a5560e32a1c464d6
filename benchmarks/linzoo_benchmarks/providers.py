"""Who computes attention over q, k, v: linzoo's backends, the published operations, and softmax as the yardstick."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import linzoo_kernels
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from linzoo_benchmarks.official import official_attention
from linzoo_benchmarks.shapes import Shape

HALVES = (torch.float16, torch.bfloat16)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, L, H*d) to (B, L, H, d)."""
    return x.view(*x.shape[:2], heads, -1)


def softmax_limit() -> int:
    """Up to how many tokens softmax attention, quadratic in them, is worth waiting for."""
    return 65536 if torch.cuda.is_available() else 4096


class Provider:
    """One implementation of attention, (B, L, H*d) three times to (B, L, H*d).

    Attributes:
        name: what rows and ``--provider`` call it.
        function: ``linear``, or what else it computes; only linear ones are compared with the reference.
        compiles: whether a first call keeps torch.compile busy, for half a minute on a CPU.
    """

    name: str
    function = "linear"
    compiles = False

    def missing(self, device: torch.device) -> str | None:  # noqa: ARG002
        """Why it cannot run on this machine at all; None if it can."""
        return None

    def unfit(self, shape: Shape, dtype: torch.dtype) -> str | None:  # noqa: ARG002
        """Why it is left out on this shape; None if it is not."""
        return None

    def prepare(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bring the inputs into the form that :meth:`run` takes; never timed."""
        return q, k, v

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Attend; this is what is timed."""
        raise NotImplementedError

    def finish(self, o: Tensor) -> Tensor:
        """Bring the result back into (B, L, H*d); never timed."""
        return o


class Ours(Provider):
    """A backend of linzoo_kernels."""

    def __init__(self, backend: str) -> None:
        self.name = self.backend = backend
        self.compiles = backend == "compile"

    def missing(self, device: torch.device) -> str | None:
        """Triton's interpreter is for tests: its times mean nothing."""
        return "needs a GPU" if self.backend == "triton" and device.type != "cuda" else None

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """As everybody calls it."""
        return linzoo_kernels.linear_attention(q, k, v, heads=heads, backend=self.backend)


class Eager(Provider):
    """The published operations one by one."""

    name = "eager"

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """See :func:`official_attention`."""
        return official_attention(q, k, v, heads)


class Compiled(Provider):
    """The published operations through ``torch.compile``, anew for every shape: the best it can do."""

    name = "eager-compiled"
    compiles = True

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """The first call for a shape compiles."""
        compiled = _compiled(tuple(q.shape), heads, q.dtype, torch.is_grad_enabled())
        result: Tensor = compiled(q, k, v, heads)
        return result


@functools.lru_cache(maxsize=2)
def _compiled(*_: object) -> Callable[..., Any]:
    """A function of its own for each shape: one that sees many falls back to eager at some point, silently."""
    torch.compiler.reset()
    return torch.compile(official_attention, fullgraph=True, dynamic=False)


class Softmax(Provider):
    """Softmax attention through ``scaled_dot_product_attention`` with one of its backends."""

    function = "softmax"

    def __init__(self, name: str, backend: SDPBackend) -> None:
        self.name = name
        self.backend = backend

    def missing(self, device: torch.device) -> str | None:
        """A CPU has its flash attention only."""
        on_cpu = device.type == "cpu" and self.backend is not SDPBackend.FLASH_ATTENTION
        return "needs a GPU" if on_cpu else None

    def unfit(self, shape: Shape, dtype: torch.dtype) -> str | None:
        """Quadratic in the tokens, so that there is a limit; float32 flash attention is there on CPUs only."""
        limit = softmax_limit()
        if shape.tokens > limit:
            return f"more than {limit} tokens"
        if self.backend is SDPBackend.CUDNN_ATTENTION and shape.head_dim > 128:
            return "head_dim up to 128 only"
        on_gpu = torch.cuda.is_available() and self.backend is not SDPBackend.EFFICIENT_ATTENTION
        return "half precision only" if on_gpu and dtype not in HALVES else None

    def run(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """As diffusers' ``AttnProcessor2_0`` calls it."""
        query, key, value = (split_heads(x, heads).transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(self.backend):
            return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
