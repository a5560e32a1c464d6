"""Do the pictures show what was asked for?"""

from __future__ import annotations

from collections.abc import Iterator

from linzoo.plugin import Measure
from linzoo.validation.metrics.text import clip_score
from linzoo.validation.subject import Subject

_LOSS_ALLOWED = -0.5


def text(subject: Subject) -> Iterator[Measure]:
    """CLIP score of the student's pictures, and how much lower it is than the teacher's."""
    sights = subject.sights
    texts = sights.texts()
    if texts is None:
        why = sights.why("image-text")
        yield Measure(name="clip-score", title="CLIP score", value=None, skipped=why)
        yield Measure(
            name="clip-score-change", title="CLIP score, change from the teacher's", value=None, skipped=why
        )
        return
    scores = {
        who: float(clip_score(sights.features("image-text", who), texts).mean())
        for who in ("student", "teacher")
    }
    by = sights.name("image-text")
    yield Measure(
        name="clip-score",
        title="CLIP score",
        value=scores["student"],
        better="higher",
        detail=f"by {by}; the teacher has {scores['teacher']:.2f}",
        data={**scores, "encoder": by},
    )
    yield Measure(
        name="clip-score-change",
        title="CLIP score, change from the teacher's",
        value=scores["student"] - scores["teacher"],
        better="higher",
        bar=_LOSS_ALLOWED,
        detail=f"by {by}: {scores['student']:.2f} against the teacher's {scores['teacher']:.2f}",
    )
