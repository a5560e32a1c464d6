"""What the object that an ``Encoder`` entry builds must have, by its kind.

Pictures are given as uint8 (B, 3, H, W), RGB, on the device that the object was built for, all of one size, which may be any.
The object scales and normalises them itself. The same pictures must give the same figures, one by one or together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class ImageEncoder(Protocol):
    """Of kind ``image``: for FID and KID."""

    def features(self, pixels: Tensor) -> Tensor:
        """Features of pictures, float32 (B, D)."""
        ...


class ImageTextEncoder(Protocol):
    """Of kind ``image-text``: for the CLIP score and CMMD."""

    def features(self, pixels: Tensor) -> Tensor:
        """Embeddings of pictures, float32 (B, D), in one space with those of texts. Their length does not count."""
        ...

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts, float32 (B, D). A text that is too long is cut."""
        ...


class DistanceEncoder(Protocol):
    """Of kind ``distance``: for LPIPS."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How far the pictures of each pair are apart, float32 (B,), 0 for identical ones."""
        ...
