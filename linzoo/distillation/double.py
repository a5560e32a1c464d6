"""float64, for sums over many tokens and for the linear algebra on them."""

from __future__ import annotations

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = frozenset({"mps"})


def double(x: Tensor) -> Tensor:
    """``x`` in float64, where it is, or in host memory if its device (Apple's) does not have float64."""
    return x.to("cpu" if x.device.type in _WITHOUT_FLOAT64 else x.device, torch.float64)
