"""What a run takes, as sums of named parts, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GB = 1e9
"""Gigabytes are decimal: what a card holds is a little more than its name says, not less."""


@dataclass(frozen=True)
class Line:
    """One part of a sum of bytes."""

    what: str
    nbytes: int


@dataclass(frozen=True)
class StageEstimate:
    """What a stage takes on each GPU.

    Attributes:
        name: ``align`` or ``distill``.
        micro_batch: samples at once.
        size: the largest, in pixels.
        lines: the parts of its memory.
        flops: floating point operations of the whole stage, in all processes; without on-policy sampling.
        steps: its optimiser steps.
    """

    name: str
    micro_batch: int
    size: tuple[int, int]
    lines: tuple[Line, ...]
    flops: float
    steps: int

    @property
    def nbytes(self) -> int:
        """Its memory."""
        return sum(line.nbytes for line in self.lines)


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        recipe, variant: what is distilled, and how.
        stages: the trained stages.
        official: the parts of the memory that the published layout takes for the last stage, with two UNets.
        disk: the parts of what is written.
    """

    recipe: str
    variant: str
    stages: tuple[StageEstimate, ...]
    official: tuple[Line, ...]
    disk: tuple[Line, ...]

    @property
    def nbytes(self) -> int:
        """Memory of the stage that takes most."""
        return max((stage.nbytes for stage in self.stages), default=0)

    def fits(self, card_gb: float) -> bool:
        """Whether a card of so many gigabytes is enough."""
        return self.nbytes <= card_gb * GB

    def to_json(self) -> dict[str, Any]:
        """Everything, with the sums."""
        return {
            "recipe": self.recipe,
            "variant": self.variant,
            "memory_bytes": self.nbytes,
            "stages": [
                {
                    "stage": stage.name,
                    "micro_batch": stage.micro_batch,
                    "size": list(stage.size),
                    "bytes": stage.nbytes,
                    "lines": _as_json(stage.lines),
                    "flops": stage.flops,
                    "steps": stage.steps,
                }
                for stage in self.stages
            ],
            "official_bytes": sum(line.nbytes for line in self.official),
            "official": _as_json(self.official),
            "disk_bytes": sum(line.nbytes for line in self.disk),
            "disk": _as_json(self.disk),
        }


def render(estimate: Estimate, card_gb: float | None = None) -> str:
    """The sums as text, a part a line; with ``card_gb``, whether a card of that size is enough."""
    blocks = []
    for stage in estimate.stages:
        width, height = stage.size
        per_step = stage.flops / stage.steps / 1e12
        head = f"memory of {stage.name} (micro-batch {stage.micro_batch}, {width} x {height} px)"
        blocks.append(_sum(head, stage.lines))
        blocks.append(f"  {per_step:,.3g} TFLOP a step, {stage.steps:,} steps")
    if estimate.official:
        blocks.append(_sum("the published layout, for comparison (two UNets)", estimate.official))
    blocks.append(_sum("disk", estimate.disk))
    if card_gb is not None:
        verdict = "fits" if estimate.fits(card_gb) else "does not fit"
        blocks.append(f"{estimate.nbytes / GB:.1f} GB: {verdict} a card of {card_gb:g} GB")
    return "\n".join(blocks)


def _sum(head: str, lines: tuple[Line, ...]) -> str:
    total = Line("together", sum(line.nbytes for line in lines))
    rows = [f"  {_size(line.nbytes)}  {line.what}" for line in (*lines, total)]
    return "\n".join([f"{head}:", *rows])


def _size(nbytes: int) -> str:
    return f"{nbytes / GB:8.2f} GB" if nbytes >= GB / 10 else f"{nbytes / 1e6:8.2f} MB"


def _as_json(lines: tuple[Line, ...]) -> list[dict[str, Any]]:
    return [{"what": line.what, "bytes": line.nbytes} for line in lines]
