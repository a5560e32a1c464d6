"""How well a picture shows what a text says."""

from __future__ import annotations

from torch import Tensor

from linzoo.validation.metrics.latents import cosine


def clip_score(image_embeddings: Tensor, text_embeddings: Tensor) -> Tensor:
    """CLIP score of each pair of a picture and its text: ``100 max(cos, 0)``.

    CLIPScore (arXiv 2104.08718, equation 1) with 100 in the place of its weight 2.5, as papers on text to image report it.

    Args:
        image_embeddings: (B, D); their lengths do not count.
        text_embeddings: (B, D), by the same network.

    Returns:
        float64 (B,), between 0 and 100.

    Raises:
        MetricError: they are no pairs.
    """
    return 100 * cosine(image_embeddings, text_embeddings).clamp(min=0)
