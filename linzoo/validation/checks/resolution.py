"""Beyond the size that it was trained at: does the attention still hold, and do pictures begin to repeat themselves?"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from linzoo.errors import LinzooError
from linzoo.generate.memory import out_of_memory
from linzoo.plugin import Chart, Measure, PicturePair
from linzoo.validation.checks.distance import attention_errors
from linzoo.validation.checks.faults import worst_first
from linzoo.validation.drawings import BOTH, FACTORS, LARGE
from linzoo.validation.metrics.repetition import repetition
from linzoo.validation.subject import Subject

_ERROR = "Error of the layers at the largest size"
_REPETITION = "Repetition at the largest size, change from the teacher's"


def resolution(subject: Subject) -> Iterator[Measure]:
    """Error of each layer, and repetition in the pictures, at one to four times the side, as far as memory goes."""
    errors: dict[float, dict[str, float]] = {}
    for factor in FACTORS:
        try:
            errors[factor] = _errors_at(subject, factor)
        except (LinzooError, RuntimeError, MemoryError) as error:
            if not out_of_memory(error.__cause__ or error):
                raise
            break  # nor would a larger one fit
    if len(errors) < 2:
        why = f"there is not enough memory on {subject.device} for {FACTORS[1]:g} times the side"
        for name, title in (("resolution-error", _ERROR), ("repetition-change", _REPETITION)):
            yield Measure(name=name, title=title, value=None, skipped=why)
        return
    yield _growth(subject, errors)
    yield _repetition(subject, list(errors))


def _errors_at(subject: Subject, factor: float) -> dict[str, float]:
    """Draw with both at a size, in this process alone, and look at each layer there."""
    subject.drawings("teacher", factor).draw(subject.pipe, subject.progress)
    with subject.mounted():
        subject.drawings("student", factor).draw(subject.pipe, subject.progress)
    with subject.student() as student:
        return attention_errors(subject, student, subject.drawings("teacher", factor).latents(LARGE))


def _growth(subject: Subject, errors: Mapping[float, Mapping[str, float]]) -> Measure:
    means = {factor: sum(each.values()) / len(each) for factor, each in errors.items()}
    largest = max(errors)
    last = errors[largest]
    ranked = worst_first(last)
    growth = means[largest] / means[FACTORS[0]]
    lines = {"mean over layers": means} | {
        name: {factor: each[name] for factor, each in errors.items()} for name in ranked[:3]
    }
    return Measure(
        name="resolution-error",
        title=_ERROR,
        value=means[largest],
        detail=f"relative, mean over layers, at {_size(subject, largest)} pixels; {growth:.2f} times that at"
        f" {_size(subject, 1.0)}{_left_out(errors)}",
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


def _repetition(subject: Subject, factors: Sequence[float]) -> Measure:
    repeats: dict[str, dict[str, float]] = {who: {} for who in BOTH}
    native = min(subject.size)
    for factor in factors:
        for who in BOTH:
            pixels = subject.drawings(who, factor).pixels(range(min(LARGE, len(subject.settings.prompts))))
            repeats[who][f"{factor:g}"] = float(repetition(pixels, native).mean())
    last = f"{factors[-1]:g}"
    return Measure(
        name="repetition-change",
        title=_REPETITION,
        value=repeats["student"][last] - repeats["teacher"][last],
        detail=f"at {_size(subject, factors[-1])} pixels {repeats['student'][last]:.2f} against the teacher's"
        f" {repeats['teacher'][last]:.2f}; 1 is a picture that is tiled of one{_left_out(factors)}",
        charts=(
            Chart(
                title="Repetition over the size",
                kind="lines",
                x="side, in multiples of the size that is validated",
                y="how much a picture repeats itself",
                series=repeats,
            ),
        ),
        pictures=tuple(_pairs(subject, factors)),
    )


def _left_out(factors: Collection[float]) -> str:
    missing = [f"{factor:g}" for factor in FACTORS if factor not in factors]
    return f"; {' and '.join(missing)} times the side do not fit into memory" if missing else ""


def _pairs(subject: Subject, factors: Sequence[float]) -> Iterator[PicturePair]:
    for factor in factors[1:]:
        teacher, student = (subject.drawings(who, factor) for who in BOTH)
        for index in range(len(teacher.prompts)):
            yield PicturePair(
                title=teacher.prompts[index],
                detail=f"{_size(subject, factor)} pixels, seed {subject.seed + index}",
                teacher=teacher.picture(index),
                student=student.picture(index),
            )


def _size(subject: Subject, factor: float) -> str:
    width, height = subject.drawings("teacher", factor).settings.size or (0, 0)
    return f"{width}x{height}"
