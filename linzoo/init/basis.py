"""The basis in which linear queries and keys look, relative to the softmax attention that they come from."""

from __future__ import annotations

import numpy as np


def carry_over(linear: np.ndarray, base: np.ndarray, change: np.ndarray, heads: int) -> np.ndarray:
    """Bring a fine-tune's change of a head's queries (or keys) to linear ones that look along other directions.

    Softmax sees products of queries and keys alone, so that linear attention may start from other directions of the same
    space: sharper ones, or the paired ones of calibration. Each head's T with ``linear ≈ T base`` in least squares says
    which combinations they are, and ``linear + T change`` are the same combinations of the fine-tune's. Where the linear
    weights are the base's own, T is the identity.

    Args:
        linear: ``to_q.weight`` or ``to_k.weight`` of the linear attention, (C, C); a head is C / heads rows.
        base: the same of the model that it was distilled from.
        change: of the fine-tune to ``base``.
        heads: number of heads.

    Returns:
        The linear attention's weights for the fine-tune, float64.
    """
    result = linear.astype(np.float64)
    for head in np.split(np.arange(len(linear)), heads):
        combinations, *_ = np.linalg.lstsq(base[head].T.astype(np.float64), result[head].T, rcond=None)
        result[head] += combinations.T @ change[head]
    return result
