"""Which layers are worth keeping softmax, told by forward passes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.evaluation import Evaluator
from linzoo.distillation.student import Student


def scores(
    student: Student, evaluator: Evaluator, advance: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """KD if this layer alone were softmax again, by layer: low where restoring it gains much.

    ``advance`` is called after each layer.

    What several layers contribute to KD nearly adds up, so that one pass over the layers is enough (LAPTOP-Diff,
    arXiv 2404.11098, finds the same of pruned layers).
    """
    found = {}
    for name in student.layers:
        with student.softmax([name]):
            found[name] = evaluator.kd()
        advance()
    return found


def choose(scores: Mapping[str, float], count: int) -> tuple[str, ...]:
    """The ``count`` layers whose restoring leaves the least KD, the most worthwhile first.

    Raises:
        DistillationError: there are not so many layers, or none would stay linear.
    """
    if count >= len(scores):
        raise DistillationError(
            f"keep_softmax is {count}, but the student has {len(scores)} linear layers and one at least must stay; lower it."
        )
    return tuple(sorted(scores, key=lambda name: (scores[name], name))[:count])
