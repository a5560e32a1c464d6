"""What distillation is held to on mini, and what rows say about it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from linzoo_benchmarks.distillation.rows import AblationRow, CurveRow, SpeedRow, TransferRow

SPEED_SIZE, PUBLISHED, OURS = "mini", "published", "ours, two micro-batches"


@dataclass(frozen=True)
class Verdict:
    """A figure that has to be reached, and what was measured; None where nothing was."""

    text: str
    limit: float
    found: float | None
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        """Whether it was reached."""
        if self.found is None:
            return None
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    def cells(self) -> tuple[str, str, str, str]:
        """For a table: bar, limit, measured, verdict."""
        sign = "≤" if self.at_most else "≥"
        found = "" if self.found is None else f"{self.found:.2f}"
        return self.text, f"{sign} {self.limit:.2f}", found, {True: "met", False: "**missed**", None: "not measured"}[self.met]  # fmt: skip


def judge(
    ablation: Sequence[AblationRow],
    curves: Sequence[CurveRow],
    transfer: Sequence[TransferRow],
    speed: Sequence[SpeedRow],
) -> list[Verdict]:
    """A verdict on every bar; ratios are of means over seeds, of turns for speed."""
    kd, guided = _means(ablation, "kd"), _means(ablation, "guided")
    moved = {start: statistics.mean(values) for start, values in _by_start(transfer).items()}
    best = min((value for start, value in moved.items() if start != "pretrained"), default=None)
    return [
        Verdict("steps to the official recipe's final KD, over its steps", 0.25, steps_to_match(ablation, curves)),
        Verdict("final KD, ours complete over official", 0.25, _ratio(kd, "ours", "official")),
        Verdict("guided KD at 7.5, ours complete over official", 1 / 3, _ratio(guided, "ours", "official")),
        Verdict("untrained KD, calibrated over plain copy", 0.25, _ratio(kd, "calibrated", "copy")),
        Verdict("fine-tune, best of ours over pretrained", 0.6, _over(best, moved.get("pretrained"))),
        Verdict("speed on mini, ours over published", 1.5, speed_ratio(speed, SPEED_SIZE, OURS), at_most=False),
        Verdict("peak memory on mini, ours over published", 0.7, memory_ratio(speed, SPEED_SIZE, OURS)),
    ]  # fmt: skip


def steps_to_match(
    ablation: Sequence[AblationRow], curves: Sequence[CurveRow], control: str = "official"
) -> float | None:
    """The first step at which ours is as near as the control ends, over the control's steps.

    The mean over seeds; each seed's curves are measured alike. A seed that never comes there counts as 1.
    """
    steps = {row.seed: row.steps for row in ablation if row.arm == control}
    ends = {row.seed: row.kd for row in curves if row.arm == control and row.step == steps.get(row.seed)}
    shares = []
    for seed, end in ends.items():
        ours = [row for row in curves if row.arm == "ours" and row.seed == seed]
        if ours:
            reached = [row.step for row in ours if row.kd <= end]
            shares.append(min(reached, default=steps[seed]) / steps[seed])
    return statistics.mean(shares) if shares else None


def speed_ratio(rows: Sequence[SpeedRow], size: str, loop: str, against: str = PUBLISHED) -> float | None:
    """Median over turns of the samples a second of one loop over those of the other, turn by turn."""
    ratios = turns(rows, size, loop, against, "samples_per_second")
    return statistics.median(ratios) if ratios else None


def memory_ratio(rows: Sequence[SpeedRow], size: str, loop: str, against: str = PUBLISHED) -> float | None:
    """The same of the peak memory in tensors."""
    ratios = turns(rows, size, loop, against, "peak_mb")
    return statistics.median(ratios) if ratios else None


def turns(rows: Sequence[SpeedRow], size: str, loop: str, against: str, field: str) -> list[float]:
    """One loop over another in every turn that has both."""
    found = {(row.round, row.loop): getattr(row, field) for row in rows if row.size == size}
    return [
        value / found[turn, against]
        for (turn, name), value in found.items()
        if name == loop and (turn, against) in found
    ]


def _means(rows: Sequence[AblationRow], field: str) -> dict[str, float]:
    values = defaultdict(list)
    for row in rows:
        values[row.arm].append(getattr(row, field))
    return {arm: statistics.mean(each) for arm, each in values.items()}


def _by_start(rows: Sequence[TransferRow]) -> Mapping[str, list[float]]:
    values = defaultdict(list)
    for row in rows:
        values[row.start].append(row.kd)
    return values


def _ratio(means: Mapping[str, float], one: str, other: str) -> float | None:
    return _over(means.get(one), means.get(other))


def _over(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None
