"""What is minimised: each term as numbers by sample, so that parts of a batch add up to the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from linzoo.distillation.recipe import Weight

_SMALLEST = 1e-8
"""Mean square of a teacher's output below which an error is no longer told relative to it."""


def weight_at(weight: Weight, progress: float) -> float:
    """The weight when ``progress``, 0 to 1, of the stage is over: half a cosine from start to end."""
    end = weight.start if weight.end is None else weight.end
    return weight.start + (end - weight.start) * (1 - math.cos(math.pi * progress)) / 2


def mean_square(x: Tensor) -> Tensor:
    """Mean of the squares by sample, (B,), float32 at least."""
    # The norm reads half precision as it is; squares of a float32 copy would keep the copy for the backward pass.
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1, dtype=dtype)
    return norm.square() / x[0].numel()


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean square of the difference by that of the teacher, by sample, (B,)."""
    return mean_square(student - teacher) / mean_square(teacher).clamp(min=_SMALLEST)


def relative_huber(student: Tensor, teacher: Tensor) -> Tensor:
    """As :func:`relative_error` where the difference is small; linear where it is beyond the teacher's root mean square.

    Twice the Huber loss of both in units of the teacher's root mean square, by sample, (B,).
    """
    scale = mean_square(teacher).clamp(min=_SMALLEST).sqrt().view(-1, *[1] * (teacher.dim() - 1))
    loss = torch.nn.functional.huber_loss(student / scale, teacher / scale, reduction="none")
    return 2 * loss.flatten(1).mean(1)


def feature_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], *, normalize: bool) -> Tensor:
    """Mean over the layers of the error of their outputs, by sample, (B,).

    Args:
        student: output of each layer by name, (B, N, C).
        teacher: the same layers'.
        normalize: errors relative to the teacher's mean square, so that every layer counts alike; without, layers with
            large numbers dominate, as in the published code.
    """
    errors = [
        relative_error(student[name], target) if normalize else mean_square(student[name] - target)
        for name, target in teacher.items()
    ]
    return torch.stack(errors).mean(0)


def guide(outputs: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (arXiv 2207.12598): (2 B, ...), conditional rows first, to (B, ...)."""
    conditional, unconditional = outputs.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def guided_loss(student: Tensor, teacher: Tensor, scale: float) -> Tensor:
    """Mean square error of the guided output by sample, (B,), over 1 + scale^2, which errors grow with.

    ``student`` and ``teacher`` are (2 B, ...), conditional rows first.
    """
    return mean_square(guide(student - teacher, scale)) / (1 + scale**2)
