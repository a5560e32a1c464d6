"""What PyTorch has downloaded before."""

from __future__ import annotations

from pathlib import Path

import torch


def is_downloaded(name: str) -> bool:
    """Whether a file of weights is where ``torch.hub`` keeps them."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()
