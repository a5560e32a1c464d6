"""Whether weights descend from others: what ``delta`` must know before it may add a difference to anything.

Two trainings from different random starts share no basis: their matrices are as good as orthogonal
(cosine 0 within 1/sqrt(n)), whatever they compute. Fine-tunes move their weights by a few per cent; mini's moved
4 %, with a cosine of 0.999 in the module that changed most. The same holds for linear weights: started as the teacher's
they stay near it while they train, and from a random start they never come near.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

MOST_CHANGE = 0.5
"""Largest ‖W_ft - W_base‖ / ‖W_base‖ over all modules of a fine-tune; unrelated weights have about 1.4."""

LEAST_CORRELATION = 0.5
"""Least cosine between any one module of a fine-tune and of its base; unrelated ones have about 0."""

LEAST_BASIS = 0.2
"""Least cosine over to_v and to_out between linear weights and their base; after a random start it is about 0."""

_CHUNK = 1 << 16


@dataclass
class Similarity:
    """How alike two sets of matrices are, gathered pair by pair."""

    _dot: float = 0.0
    _first: float = 0.0
    _second: float = 0.0
    _change: float = 0.0

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Take in one more pair of the same shape, float32."""
        first, second = first.reshape(-1), second.reshape(-1)
        for begin in range(0, first.size, _CHUNK):
            # In float64, so that no machine's way of summing shows in the digits that the lock file records.
            a = first[begin : begin + _CHUNK].astype(np.float64)
            b = second[begin : begin + _CHUNK].astype(np.float64)
            difference = b - a
            self._dot += float(np.dot(a, b))
            self._first += float(np.dot(a, a))
            self._second += float(np.dot(b, b))
            self._change += float(np.dot(difference, difference))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between the two, all pairs taken as one vector; 0 where either is zero."""
        norm = (self._first * self._second) ** 0.5
        return self._dot / norm if norm else 0.0

    @property
    def relative_change(self) -> float:
        """‖second - first‖ / ‖first‖; infinite where the first is zero and the second is not."""
        if not self._first:
            return float("inf") if self._change else 0.0
        return float((self._change / self._first) ** 0.5)


@dataclass
class Kinship:
    """The evidence that a delta transfer makes sense.

    Attributes:
        descent: fine-tune against base, over q, k, v and out of all modules.
        basis: linear weights against base, over v and out of all modules.
        by_module: fine-tune against base, by module name.
    """

    descent: Similarity = field(default_factory=Similarity)
    basis: Similarity = field(default_factory=Similarity)
    by_module: dict[str, Similarity] = field(default_factory=dict)

    def add(self, module: str, pairs: Iterable[tuple[str, np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Take in one module: ``(tensor name, base, fine-tune, linear)`` for each of its matrices, float32."""
        of_module = self.by_module.setdefault(module, Similarity())
        for name, base, tuned, linear in pairs:
            self.descent.add(base, tuned)
            of_module.add(base, tuned)
            if name.startswith(("to_v.", "to_out.")):
                self.basis.add(base, linear)

    @property
    def weakest(self) -> tuple[str, float]:
        """The module in which the fine-tune is least like its base, and the cosine there."""
        return min(((name, each.cosine) for name, each in self.by_module.items()), key=lambda pair: pair[1])

    def to_json(self) -> dict[str, object]:
        """Return the evidence for the lock file, rounded so that it does not depend on the order of sums."""
        module, cosine = self.weakest
        return {
            "relative_change": round(self.descent.relative_change, 4),
            "correlation": round(self.descent.cosine, 4),
            "weakest_module": module,
            "weakest_correlation": round(cosine, 4),
            "basis_correlation": round(self.basis.cosine, 4),
        }
