"""Beyond the size that it was trained at: does the attention still hold, and do pictures begin to repeat themselves?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from linzoo.plugin import Chart, Measure, PicturePair
from linzoo.validation.checks.distance import attention_errors
from linzoo.validation.drawings import FACTORS, LARGE, Who
from linzoo.validation.metrics.repetition import repetition
from linzoo.validation.subject import Subject

_WHOSE: tuple[Who, ...] = ("teacher", "student")


def resolution(subject: Subject) -> Iterator[Measure]:
    """Error of each layer, and repetition in the pictures, at one to four times the side."""
    errors: dict[float, dict[str, float]] = {}
    with subject.student() as student:
        for factor in FACTORS:
            latents = subject.drawings("teacher", factor).latents(LARGE)
            errors[factor] = attention_errors(subject, student, latents)
    yield _errors(subject, errors)
    yield _repetition(subject)


def _errors(subject: Subject, errors: Mapping[float, Mapping[str, float]]) -> Measure:
    means = {factor: sum(each.values()) / len(each) for factor, each in errors.items()}
    last = errors[FACTORS[-1]]
    ranked = sorted(last, key=lambda name: -last[name])
    growth = means[FACTORS[-1]] / means[FACTORS[0]]
    lines = {"mean over layers": means} | {
        name: {factor: each[name] for factor, each in errors.items()} for name in ranked[:3]
    }
    return Measure(
        name="resolution-error",
        title=f"Error of the layers at {FACTORS[-1]:g} times the side",
        value=means[FACTORS[-1]],
        detail=f"relative, mean over layers; {growth:.2f} times that at {_size(subject, 1.0)} pixels",
        culprits=tuple(ranked[:5]),
        charts=(
            Chart(
                title="Error of the layers over the size",
                kind="lines",
                x="side, in multiples of the size that is validated",
                y="relative squared error",
                series={
                    name: {f"{factor:g}": value for factor, value in points.items()}
                    for name, points in lines.items()
                },
            ),
        ),
        data={"means": {f"{factor:g}": value for factor, value in means.items()}, "growth": growth},
    )


def _repetition(subject: Subject) -> Measure:
    repeats: dict[str, dict[str, float]] = {who: {} for who in _WHOSE}
    native = min(subject.size)
    for factor in FACTORS:
        for who in _WHOSE:
            pixels = subject.drawings(who, factor).pixels(range(LARGE))
            repeats[who][f"{factor:g}"] = float(repetition(pixels, native).mean())
    last = f"{FACTORS[-1]:g}"
    return Measure(
        name="repetition-change",
        title=f"Repetition at {last} times the side, change from the teacher's",
        value=repeats["student"][last] - repeats["teacher"][last],
        detail=f"{repeats['student'][last]:.2f} against the teacher's {repeats['teacher'][last]:.2f}; 1 is a picture that is"
        " tiled of one",
        charts=(
            Chart(
                title="Repetition over the size",
                kind="lines",
                x="side, in multiples of the size that is validated",
                y="how much a picture repeats itself",
                series=repeats,
            ),
        ),
        pictures=tuple(_pairs(subject)),
    )


def _pairs(subject: Subject) -> Iterator[PicturePair]:
    for factor in FACTORS[1:]:
        teacher, student = (subject.drawings(who, factor) for who in _WHOSE)
        for index in range(LARGE):
            yield PicturePair(
                title=teacher.prompts[index],
                detail=f"{_size(subject, factor)} pixels, seed {subject.seed + index}",
                teacher=teacher.picture(index),
                student=student.picture(index),
            )


def _size(subject: Subject, factor: float) -> str:
    width, height = subject.drawings("teacher", factor).settings.size or (0, 0)
    return f"{width}x{height}"
