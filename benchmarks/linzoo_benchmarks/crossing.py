"""From how many tokens on one measurement is below another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Crossing:
    """Where a curve of times over tokens falls below another one.

    Attributes:
        tokens: where they meet, a straight line on paper with logarithmic scales drawn between measurements; None
            where they do not.
        lowest, highest: the measured tokens.
    """

    tokens: float | None
    lowest: int
    highest: int

    def __str__(self) -> str:
        if self.tokens is None:
            return f"not up to {self.highest:,} tokens"
        if self.tokens <= self.lowest:
            return f"from {self.lowest:,} tokens or fewer"
        return f"from {self.tokens:,.0f} tokens"


def crossing(linear: Mapping[int, float], softmax: Mapping[int, float]) -> Crossing | None:
    """Where ``linear`` is below ``softmax`` for good; both map tokens to milliseconds.

    None if they have no tokens in common.
    """
    common = sorted(linear.keys() & softmax.keys())
    if not common:
        return None
    ahead = [math.log(softmax[tokens] / linear[tokens]) for tokens in common]
    meeting: float | None = None
    for index in range(len(common) - 1, -1, -1):
        if ahead[index] < 0:
            if index < len(common) - 1:
                meeting = _between(common[index], common[index + 1], ahead[index], ahead[index + 1])
            break
        meeting = float(common[index])
    return Crossing(meeting, common[0], common[-1])


def _between(low: int, high: int, below: float, above: float) -> float:
    share = -below / (above - below)
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
