"""How many floating point operations the operators do, for ``torch.utils.flop_counter``.

That module imports triton, which importing linzoo_kernels must not: the formulas are registered when it is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"

_PRODUCTS = {
    "linear_attention_state": (1, 2),
    "linear_attention_state_backward": (2, 3),
    "apply_state": (1, 3),
    "apply_state_backward": (2, 4),
}
"""How many times an operator multiplies its tokens by d x d matrices, and which argument the number of heads is."""


def register() -> None:
    """Register the formulas, now or when torch's counter is imported."""
    if _COUNTER in sys.modules:
        _register_in(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _AfterImport())


def _register_in(counter: ModuleType) -> None:
    for name, (products, heads_at) in _PRODUCTS.items():
        counter.register_flop_formula(getattr(torch.ops.linzoo_kernels, name))(_formula(products, heads_at))


def _formula(products: int, heads_at: int) -> Callable[..., int]:
    def flops(tokens: torch.Size, *others: Any, **_: Any) -> int:
        head_dim: int = tokens[-1] // others[heads_at - 1]
        return products * 2 * prod(tokens) * head_dim

    return flops


class _AfterImport(MetaPathFinder):
    """Finds the counter as the other finders do, and registers the formulas once it is executed."""

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register_in(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
