"""The check ``resolution``: errors and repetition over sizes, and the sizes themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from validating import subject_of

from linzoo.errors import LinzooError
from linzoo.plugin import Measure, thaw
from linzoo.registry import Registry
from linzoo.validation.checks import resolution as module
from linzoo.validation.checks.resolution import resolution
from linzoo.validation.drawings import FACTORS, LARGE
from linzoo.validation.metrics.repetition import repetition
from linzoo.validation.subject import scaled_size

ERRORS = {
    1.0: {"down": 0.1, "mid": 0.2, "up": 0.3, "last": 0.2},
    1.5: {"down": 0.2, "mid": 0.2, "up": 0.4, "last": 0.2},
    2.0: {"down": 0.4, "mid": 0.2, "up": 0.6, "last": 0.2},
    4.0: {"down": 0.9, "mid": 0.2, "up": 0.6, "last": 0.3},
}
NATIVE = (32, 64)


class Drawn:
    """What one of the two is said to have drawn: its pictures repeat themselves the more, the larger they are."""

    most = 4.0
    """The largest factor that memory has room for."""

    def __init__(self, who: str, factor: float) -> None:
        self.who = who
        self.factor = factor
        self.settings = SimpleNamespace(size=tuple(int(factor * side) for side in NATIVE))
        self.prompts = ("a cat", "a dog")

    def latents(self, most: int) -> Tensor:
        assert most == LARGE
        return torch.full((most, 4, 4, 8), self.factor)

    def pixels(self, items: range) -> Tensor:
        tiled = {"teacher": 0, "student": self.factor / 4}[self.who]
        return torch.full((len(items), 1), tiled)

    def draw(self, pipe: Any, progress: Any) -> None:
        if self.factor > self.most:
            raise LinzooError("no room") from torch.OutOfMemoryError("CUDA out of memory")

    def picture(self, index: int) -> str:
        return f"pictures/{self.who}-{self.factor:g}/{index}.png"


@contextmanager
def nobody() -> Iterator[None]:
    yield None


def pretend(errors: Any = ERRORS) -> Any:
    settings = SimpleNamespace(prompts=("a cat", "a dog", "a bee"))
    return SimpleNamespace(
        size=NATIVE, seed=7, student=nobody, mounted=nobody, drawings=Drawn, errors=errors, pipe=None, progress=None,
        device="cuda", settings=settings,
    )  # fmt: skip


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Measure]:
    def errors(subject: Any, _: None, latents: Tensor) -> Any:
        return subject.errors[float(latents[0, 0, 0, 0])]

    def native_of(pixels: Tensor, native: int) -> Tensor:
        assert native == min(NATIVE)
        return pixels.double().flatten()

    monkeypatch.setattr(module, "attention_errors", errors)
    monkeypatch.setattr(module, "repetition", native_of)
    return {measure.name: measure for measure in resolution(pretend())}


def test_errors_are_means_over_layers_beside_those_of_the_first_size(found: dict[str, Measure]) -> None:
    measure = found["resolution-error"]
    assert measure.value == pytest.approx(0.5)
    assert measure.data["growth"] == pytest.approx(0.5 / 0.2)
    assert measure.detail == "relative, mean over layers, at 128x256 pixels; 2.50 times that at 32x64"
    assert thaw(measure.data["means"]) == pytest.approx({"1": 0.2, "1.5": 0.25, "2": 0.35, "4": 0.5})
    assert measure.culprits == ("down", "up", "last", "mid")
    assert measure.bar is None


def test_the_worst_layers_have_lines_of_their_own(found: dict[str, Measure]) -> None:
    [chart] = found["resolution-error"].charts
    assert list(chart.series) == ["mean over layers", "down", "up", "last"]
    assert thaw(chart.series["down"]) == {"1": 0.1, "1.5": 0.2, "2": 0.4, "4": 0.9}


def test_repetition_is_held_against_the_teachers(found: dict[str, Measure]) -> None:
    measure = found["repetition-change"]
    assert measure.value == pytest.approx(1.0)
    assert measure.detail.startswith("at 128x256 pixels 1.00 against the teacher's 0.00")
    [chart] = measure.charts
    assert thaw(chart.series) == {
        "teacher": {"1": 0.0, "1.5": 0.0, "2": 0.0, "4": 0.0},
        "student": {"1": 0.25, "1.5": 0.375, "2": 0.5, "4": 1.0},
    }


def test_the_large_pictures_are_shown_in_pairs(found: dict[str, Measure]) -> None:
    pairs = found["repetition-change"].pictures
    assert [(pair.title, pair.detail) for pair in pairs[:2] + pairs[-1:]] == [
        ("a cat", "48x96 pixels, seed 7"),
        ("a dog", "48x96 pixels, seed 8"),
        ("a dog", "128x256 pixels, seed 8"),
    ]
    assert len(pairs) == LARGE * (len(FACTORS) - 1)
    assert (pairs[2].teacher, pairs[2].student) == ("pictures/teacher-2/0.png", "pictures/student-2/0.png")


def test_sizes_that_do_not_fit_into_memory_are_told(
    found: dict[str, Measure], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "do not fit" not in found["resolution-error"].detail
    monkeypatch.setattr(Drawn, "most", 1.5)
    error, change = resolution(pretend())
    assert error.value == pytest.approx(0.25)
    assert error.detail.endswith(
        "at 48x96 pixels; 1.25 times that at 32x64; 2 and 4 times the side do not fit into memory"
    )
    assert change.value == pytest.approx(0.375)
    monkeypatch.setattr(Drawn, "most", 1.0)
    assert {measure.skipped for measure in resolution(pretend())} == {
        "there is not enough memory on cuda for 1.5 times the side"
    }


def test_other_errors_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Drawn, pipe: Any, progress: Any) -> None:
        raise LinzooError("no room on the disk")

    monkeypatch.setattr(Drawn, "draw", fail)
    with pytest.raises(LinzooError, match="no room on the disk"):
        list(resolution(pretend()))


def test_on_real_drawings(
    zoo: Registry, linfusion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FACTORS", (1.0, 4.0))
    subject = subject_of(zoo, linfusion, tmp_path, images=3, steps=1, guidance=1.0, size=(24, 16))
    subject.drawings("teacher").draw(subject.pipe, subject.progress)
    with subject.mounted():
        subject.drawings("student").draw(subject.pipe, subject.progress)
    error, change = resolution(subject)
    large = [subject.drawings(who, 4.0).pixels(range(2)) for who in ("student", "teacher")]
    assert large[0].shape == (2, 3, 64, 128)  # 96 lies between 64 and 128
    student, teacher = (float(repetition(pixels, 16).mean()) for pixels in large)
    assert change.value == pytest.approx(student - teacher, abs=1e-9)
    [chart] = error.charts
    assert chart.series["mean over layers"]["4"] == error.value
    assert len(error.culprits) == 4
    assert not (tmp_path / subject.drawings("teacher", 4.0).picture(2)).exists()


@given(side=st.integers(1, 512).map(lambda count: 8 * count), factor=st.floats(0.1, 8))
def test_scaled_sizes_can_be_halved_three_times_by_a_unet(side: int, factor: float) -> None:
    width, height = scaled_size((side, 64), factor)
    assert width % 64 == height % 64 == 0
    assert min(width, height) >= 64
    assert abs(width - factor * side) <= 32 or width == 64


def test_a_scaled_size_keeps_the_proportions() -> None:
    assert scaled_size((512, 768), 1.5) == (768, 1152)
    assert scaled_size((128, 128), 4.0) == (512, 512)
    assert scaled_size((136, 100), 2.0) == (256, 192)
