"""All pictures together: are they drawn from the same distribution, as features of a network tell?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from linzoo.plugin import Measure
from linzoo.validation.metrics.distribution import cmmd, frechet, kid
from linzoo.validation.subject import Subject

_ENOUGH = 2048
"""Pictures from which FID is not mostly bias (its covariance has as many rows as Inception has features)."""


@dataclass(frozen=True)
class _Distance:
    """A distance between two sets of pictures; ``kind`` of encoder makes their features."""

    name: str
    title: str
    kind: str
    between: Callable[[Tensor, Tensor], float]


def distribution(subject: Subject) -> Iterator[Measure]:
    """FID, KID and CMMD of the student's pictures to the teacher's, and of both to real ones where some are given."""
    distances = (
        _Distance("fid", "FID", "image", frechet),
        _Distance("kid", "KID", "image", lambda one, other: kid(one, other, seed=subject.seed)[0]),
        _Distance("cmmd", "CMMD", "image-text", cmmd),
    )
    for each in distances:
        yield _to_teacher(subject, each)
        yield _to_real(subject, each)


def _to_teacher(subject: Subject, distance: _Distance) -> Measure:
    title = f"{distance.title} to the teacher's pictures"
    sights = subject.sights
    if not sights.has(distance.kind):
        return Measure(name=distance.name, title=title, value=None, skipped=sights.why(distance.kind))
    student, teacher = (sights.features(distance.kind, who) for who in ("student", "teacher"))
    return Measure(
        name=distance.name,
        title=title,
        value=distance.between(student, teacher),
        detail=_how(subject, distance),
        data={"encoder": sights.name(distance.kind), "pictures": len(student)},
    )


def _to_real(subject: Subject, distance: _Distance) -> Measure:
    name, title = f"{distance.name}-real", f"{distance.title} to real pictures"
    sights = subject.sights
    if not sights.has(distance.kind) or subject.settings.real is None:
        why = (
            "no real pictures are given (--real FOLDER)"
            if sights.has(distance.kind)
            else sights.why(distance.kind)
        )
        return Measure(name=name, title=title, value=None, skipped=why)
    real = sights.features(distance.kind, "real")
    student, teacher = (
        distance.between(sights.features(distance.kind, who), real) for who in ("student", "teacher")
    )
    return Measure(
        name=name,
        title=title,
        value=student,
        detail=f"the teacher has {teacher:.4g}; {len(real)} real pictures, {_how(subject, distance)}",
        data={"student": student, "teacher": teacher, "encoder": sights.name(distance.kind)},
    )


def _how(subject: Subject, distance: _Distance) -> str:
    text = f"{len(subject.settings.prompts)} pictures, by {subject.sights.name(distance.kind)}"
    few = distance.name == "fid" and len(subject.settings.prompts) < _ENOUGH
    return f"{text}; so few bias FID upward: compare KID" if few else text
