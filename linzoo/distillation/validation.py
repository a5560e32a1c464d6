"""What is done at every validation: figures on held-out samples, pictures, and the best weights kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from linzoo.checkpoints.lock import plain
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.triptychs import Triptychs
from linzoo.errors import LinzooError


@dataclass(frozen=True)
class Validation:
    """Measures and draws the student as it stands.

    Attributes:
        evaluator: measures it.
        triptychs: draw it.
        export: writes it as the best, with the step and what was measured.
        say: told why there are no pictures, where there are none: a run does not end for them.
    """

    evaluator: Evaluator
    triptychs: Triptychs
    export: Callable[[int, Mapping[str, Any]], object]
    say: Callable[[str], None]

    def measure(self, step: int) -> dict[str, Any]:
        """Measure the student, ``kd`` among other things, and draw it."""
        measures: dict[str, Any] = plain(self.evaluator.evaluate())
        try:
            self.triptychs.draw(step)
        except LinzooError as error:
            self.say(f"warning: no pictures of step {step}: {error}")
        return measures

    def keep(self, step: int, measures: Mapping[str, Any]) -> None:
        """Write the student as the best so far."""
        self.export(step, measures)
