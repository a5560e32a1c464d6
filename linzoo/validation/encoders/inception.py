"""Inception-v3 with the weights that FID is defined by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_fidelity import FeatureExtractorInceptionV3

from linzoo.validation.encoders.pixels import resize
from linzoo.validation.encoders.torch_hub import is_downloaded

_SIDE = 299
_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"


class InceptionV3:
    """The 2048 pooled features of FID; an :class:`~linzoo.validation.encoders.protocols.ImageEncoder`.

    The network is torch-fidelity's, a port of TensorFlow's with its weights. Pictures are scaled to 299x299 first, as
    clean-fid does (arXiv 2104.11222): bicubic with antialiasing, without regard to their proportions; the network's own
    bilinear scaling, which aliases, then has nothing to do. Unlike clean-fid's, scaled pictures are rounded to whole
    levels. The network maps them to -1..1.
    """

    def __init__(self, device: torch.device | str) -> None:
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        self._network = network.eval().requires_grad_(False).to(device)

    def features(self, pixels: Tensor) -> Tensor:
        """Features of pictures, uint8 (B, 3, H, W), as float32 (B, 2048)."""
        features: Tensor = self._network(resize(pixels, _SIDE, _SIDE))[0]
        return features


def is_cached() -> bool:
    """Whether the weights were downloaded before. (This needs torch-fidelity.)"""
    return is_downloaded(_WEIGHTS)
