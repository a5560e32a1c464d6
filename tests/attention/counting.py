from __future__ import annotations

from collections.abc import Callable

import torch


class Calls:
    """Counts calls of linear attention, folded or not: shapes and finite numbers alone do not show a silent return to softmax."""

    def __init__(self) -> None:
        self.linear = 0

    def counting(self, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def counted(*args: object, **options: object) -> torch.Tensor:
            self.linear += 1
            return function(*args, **options)

        return counted

    def during(self, function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
        self.linear = 0
        return function(), self.linear
