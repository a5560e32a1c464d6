"""How alike two latents are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from linzoo.distillation.double import double
from linzoo.validation.metrics.shapes import require_pairs


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between the latents of each pair, all their numbers in one vector.

    Nothing is taken from them first, neither a mean over the latent nor one over channels: latents of a VAE are about
    centred as they are, and their mean is the picture's colour, which belongs to what is compared. 1 is the same
    direction, 0 unrelated; a latent of zeros has 0 to everything.

    Args:
        a: latents (B, C, H, W), or anything else of B items.
        b: of the same shape.

    Returns:
        float64 (B,), between -1 and 1.

    Raises:
        MetricError: they are no pairs.
    """
    require_pairs(a, b)
    return F.cosine_similarity(double(a).flatten(1), double(b).flatten(1)).clamp(-1, 1)
