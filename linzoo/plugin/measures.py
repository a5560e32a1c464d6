"""What a check of ``linzoo validate`` is given, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from linzoo.plugin.frozen import FrozenMap
from linzoo.plugin.spec import Spec, SpecError, check_filled, check_id

if TYPE_CHECKING:
    from linzoo.plugin.entries import Variant


class CheckRequest(Protocol):
    """What a check is given.

    Attributes:
        checkpoint: the folder with the LinFusion checkpoint.
        lock: what its ``linzoo.lock.json`` holds; None where it has none.
        teacher: the SOURCE of the teacher.
        variant: the variant that the teacher is.
        size: width and height in pixels that pictures are drawn at.
        seed: of every random number.
        device: the torch device to compute on.
        folder: of the report; pictures that a check writes go into it.
        prompts: what both have drawn in the suites ``quality`` and ``full``; empty in others.
        pipe: the teacher's ``diffusers`` pipeline, opened when it is first asked for. A check that mounts the checkpoint
            (``linzoo.load(request.pipe, request.checkpoint)``) unloads it again.
    """

    @property
    def checkpoint(self) -> Path: ...  # noqa: D102 (told above, once)
    @property
    def lock(self) -> Mapping[str, Any] | None: ...  # noqa: D102
    @property
    def teacher(self) -> str: ...  # noqa: D102
    @property
    def variant(self) -> Variant: ...  # noqa: D102
    @property
    def size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def prompts(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def pipe(self) -> Any: ...  # noqa: D102

    def pictures(self, who: Literal["teacher", "student"]) -> list[Path]:
        """The files of the pictures that one of the two has drawn, in the order of the prompts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart(Spec):
    """A figure of the report: a value for each of some names, or lines over numbers.

    Attributes:
        title: one line.
        kind: ``bars``, one for each name of a series, or ``lines``.
        x, y: what the axes are, with the unit.
        series: for each line, or each colour of bars, the values by name; names are numbers where ``kind`` is ``lines``.
        logarithmic: both axes of ``lines`` are logarithmic.
    """

    title: str
    kind: Literal["bars", "lines"]
    x: str
    y: str
    series: Mapping[str, Mapping[str, float]]
    logarithmic: bool = False

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        check_filled("Chart.series", self.series)
        for name, points in self.series.items():
            check_filled(f"Chart.series[{name!r}]", points)
        if self.kind == "lines":
            for name, points in self.series.items():
                for place in points:
                    _check_number(f"Chart.series[{name!r}]", place)


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePair(Spec):
    """The same prompt and noise drawn by teacher and student.

    Attributes:
        title: the prompt.
        detail: what else to know, for example the seed.
        teacher, student: the pictures' files, relative to the report's folder, with ``/`` between the parts.
    """

    title: str
    detail: str = ""
    teacher: str
    student: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Spec):
    """One figure that a check came to, and what is to be held against it.

    Attributes:
        name: what bars call it: lower-case words joined by ``-``; the same in every run.
        title: what the report calls it, in a few words.
        value: the figure; None where it could not be measured, and ``skipped`` says why.
        unit: behind the figure, for example ``dB``.
        better: which way is better: a bar is the highest value that passes, or the lowest.
        bar: what is held against it where neither the user, the distill recipe nor the variant names a bar; None holds
            nothing against it.
        detail: what was found, in a sentence or two.
        culprits: the layers, tensors or settings that are at fault if the bar falls, the worst first.
        skipped: why it could not be measured.
        charts: figures of the report.
        pictures: pictures of the report.
        data: more of it, for ``report.json``.
    """

    name: str
    title: str
    value: float | None
    unit: str = ""
    better: Literal["lower", "higher"] = "lower"
    bar: float | None = None
    detail: str = ""
    culprits: tuple[str, ...] = ()
    skipped: str = ""
    charts: tuple[Chart, ...] = ()
    pictures: tuple[PicturePair, ...] = ()
    data: Mapping[str, Any] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        Spec.__post_init__(self)
        check_id("Measure.name", self.name)
        check_filled("Measure.title", self.title)
        if (self.value is None) != bool(self.skipped):
            raise SpecError(
                f"Measure.skipped of '{self.name}' must say why there is no value, and be empty where there is one"
            )


def _check_number(where: str, text: str) -> None:
    try:
        float(text)
    except ValueError:
        raise SpecError(f"{where} must have numbers as names, since it is a line, got {text!r}") from None
