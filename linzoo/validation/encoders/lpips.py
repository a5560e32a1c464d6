"""LPIPS: how far two pictures are apart, as people judged pairs of patches."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from linzoo.validation.encoders.torch_hub import is_downloaded

_WEIGHTS = "alexnet-owt-7be5be79.pth"


class LpipsAlex:
    """LPIPS over AlexNet (arXiv 1801.03924); a :class:`~linzoo.validation.encoders.protocols.DistanceEncoder`.

    Pictures are compared as large as they are, at least 64x64; the network maps their levels to -1..1 and normalises
    those. Its linear layers come with torchmetrics, AlexNet's weights are torchvision's.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.to(device)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of each pair of pictures, uint8 (B, 3, H, W), as float32 (B,)."""
        distances: Tensor = self._network(a.float() / 255, b.float() / 255, normalize=True)
        return distances.flatten()


def is_cached() -> bool:
    """Whether AlexNet's weights were downloaded before."""
    return is_downloaded(_WEIGHTS)
