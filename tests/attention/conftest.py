from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from diffusers.utils import logging as diffusers_logging

from linzoo.attention import generalized_linear, mounted


class Calls:
    """Counts linear-attention calls: shapes and finite numbers alone do not show a silent return to softmax."""

    def __init__(self) -> None:
        self.linear = 0

    def during(self, function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, int]:
        self.linear = 0
        return function(), self.linear


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counter = Calls()
    operator = generalized_linear.generalized_linear_attention

    def counting(*args: object) -> torch.Tensor:
        counter.linear += 1
        return operator(*args)

    monkeypatch.setattr(generalized_linear, "generalized_linear_attention", counting)
    return counter


@pytest.fixture(autouse=True)
def _quiet() -> None:
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    mounted._unknown_processors.clear()


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield
