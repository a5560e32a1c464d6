"""Memory traffic without a clock: the bytes that every operation reads and writes, counted as it is dispatched.

What is counted is what a device moves if nothing stays in its caches from one operation to the next. That is so on a GPU
for tensors larger than its cache; not on a CPU for an implementation that works through the tokens in small pieces. Views
cost nothing, and each operator of linzoo_kernels counts as one operation, as its Triton kernels read and write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GEMMS = ("addmm", "baddbmm", "bmm", "mm")
"""Operations that are products of matrices; in place they have an underscore more."""

_ALLOCATIONS = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_OVERWRITES = ("copy_", "fill_", "zero_")
_VIEWS = ("_unsafe_view", "lift_fresh")


class Traffic(TorchDispatchMode):
    """Counts while it is entered: ``with Traffic() as traffic: layer(x)``.

    Attributes:
        bytes: read and written, by all operations.
        ops: how often each operation was called, by its name without overload; views and allocations do not count.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.ops: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        """How many operations there were."""
        return self.ops.total()

    @property
    def gemms(self) -> int:
        """How many of them were products of matrices."""
        return sum(self.ops[name] + self.ops[f"{name}_"] for name in GEMMS)

    def units(self, x: Tensor) -> float:
        """The bytes in units of ``x``: per token and channel, of its element size, where x is (B, L, C)."""
        return self.bytes / x.nbytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        if not (func.is_view or name in _VIEWS or name in _ALLOCATIONS):
            moved = _moved(func, name, args, kwargs, result)
            self.ops[name] += moved > 0
            self.bytes += moved
        return result


def _moved(func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    read, written = 0, 0
    given = list(zip(func._schema.arguments, args, strict=False))
    given += [
        (each, kwargs[each.name]) for each in func._schema.arguments[len(args) :] if each.name in kwargs
    ]
    for argument, value in given:
        changed = argument.alias_info is not None and argument.alias_info.is_write
        size = _bytes(value)
        written += size if changed else 0
        only_written = argument.name == "out" or name in _OVERWRITES
        read += 0 if changed and only_written else size
    returned = zip(func._schema.returns, result if isinstance(result, tuple) else (result,), strict=False)
    written += sum(_bytes(value) for output, value in returned if output.alias_info is None)
    return read + written


def _bytes(value: Any) -> int:
    """Of the tensors in a value, those elements that are in memory: an expanded dimension is there once."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return sum(
        prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or size == 0)
        * x.itemsize
        for x in tensors
    )
