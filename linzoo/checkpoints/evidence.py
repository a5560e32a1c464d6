"""One observation about a checkpoint: what was seen, what it says, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Confidence = Literal["certain", "high", "medium", "low", "none"]
"""``certain``: the user said so; ``high``: declared, or seen in every tensor; ``medium``: an assumption or a
heuristic that usually holds, and says so; ``low``: a hint that decides nothing; ``none``: undecided."""

Source = Literal["flag", "config", "lock", "sidecar", "metadata", "structure", "marker", "value", "default"]

LEVELS: tuple[Confidence, ...] = ("none", "low", "medium", "high", "certain")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one rung of the ladder saw.

    Attributes:
        about: the question that it bears on.
        source: the rung: see :mod:`linzoo.checkpoints.prediction`; ``lock`` is the lock file of a LinFusion checkpoint.
        detail: what was seen, for people.
        says: the answer that it gives; None when it only explains why there is none.
        confidence: how far it can be trusted.
    """

    about: Literal["kind", "variant", "prediction_type"]
    source: Source
    detail: str
    says: str | None = None
    confidence: Confidence = "none"

    def to_json(self) -> dict[str, str | None]:
        """Plain data for ``--json``."""
        return {
            "about": self.about,
            "source": self.source,
            "says": self.says,
            "confidence": self.confidence,
            "detail": self.detail,
        }


def decide(evidence: Iterable[Evidence]) -> Evidence | None:
    """The first that gives an answer and is more than a hint."""
    return next((each for each in evidence if each.says and LEVELS.index(each.confidence) >= 2), None)


def weakest(levels: Iterable[Confidence]) -> Confidence:
    """The lowest of several confidences."""
    return min(levels, key=LEVELS.index)
