"""float64 where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from linzoo.distillation.double import double


def test_numbers_stay_on_their_device() -> None:
    assert double(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float64
    assert double(torch.ones(2, device="meta")).is_meta


@pytest.mark.parametrize(("device", "expected"), [("mps", "cpu"), ("cuda:1", "cuda:1")])
def test_a_device_without_float64_leaves_it_to_the_cpu(device: str, expected: str) -> None:
    asked = []
    x = SimpleNamespace(device=torch.device(device), to=lambda *wanted: asked.append(wanted))
    double(x)  # type: ignore[arg-type]
    assert [(str(place), dtype) for place, dtype in asked] == [(expected, torch.float64)]
