from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from counting import Calls
from diffusers.utils import logging as diffusers_logging
from linzoo_kernels.fuse import FusedProjections

from linzoo.attention import generalized_linear, mounted


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    counter = Calls()
    for where, name in ((generalized_linear, "linear_attention"), (FusedProjections, "forward")):
        monkeypatch.setattr(where, name, counter.counting(getattr(where, name)))
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
