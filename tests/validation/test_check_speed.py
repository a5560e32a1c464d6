"""The check ``speed``: its arithmetic with a pretended stopwatch, and one small run with the real one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from linzoo_benchmarks.timing import Task, Timing
from tiny import tiny_sd, tiny_sdxl, write_linfusion

from linzoo.attention.handle import Handle, load
from linzoo.distillation.progress import Progress
from linzoo.errors import LinzooError
from linzoo.plugin import Measure, thaw
from linzoo.validation.checks.speed import run, sizes_of
from linzoo.validation.contenders import FOLDED, STUDENT, TEACHER, Contenders
from linzoo.validation.contest import CALL, measures
from linzoo.validation.sweep import CALLS, FULL, Row, Stopwatch, Sweep, predict

NAMES = (TEACHER, STUDENT, FOLDED)
WEIGHTS = {TEACHER: 1000, STUDENT: 1500, FOLDED: 1700}
CPU = torch.device("cpu")


def pretend(free: int = 10**12) -> Stopwatch:
    """Work says what it takes: a task's result is its milliseconds, and a byte a microsecond."""

    def times(tasks: Mapping[str, Task], device: torch.device, seconds: float) -> dict[str, Timing]:
        found = {who: task.once() for who, task in tasks.items()}
        return {who: Timing(ms, ms - 1, ms + 1) for who, ms in found.items()}

    return Stopwatch(times, lambda task, device: round(1000 * task.once()), lambda device: free)


def sweep(stopwatch: Stopwatch, device: torch.device = CPU) -> Sweep:
    return Sweep(CALL, device, WEIGHTS, stopwatch)


def takes(**milliseconds: float) -> dict[str, Task]:
    """Tasks of the teacher, the student and the folded one."""
    names = {"teacher": TEACHER, "student": STUDENT, "folded": FOLDED}
    return {names[who]: Task(lambda _, ms=ms: ms) for who, ms in milliseconds.items()}


def fails(error: Exception) -> Task:
    def run(_: object) -> None:
        raise error

    return Task(run)


def rows_of(what: str, figures: Mapping[int, Mapping[str, float | str]]) -> list[Row]:
    """By side: the milliseconds of each, with a thousand bytes for each of them, or a note."""
    rows = []
    for side, by_name in figures.items():
        for who, value in by_name.items():
            place = {"what": what, "size": (side, side), "tokens": (side // 8) ** 2, "contender": who}
            if isinstance(value, str):
                rows.append(Row(**place, note=value, weights=WEIGHTS[who]))
            else:
                rows.append(Row(**place, ms=value, peak=round(1000 * value), weights=WEIGHTS[who]))
    return rows


def by_name(rows: list[Row], native: int) -> dict[str, Measure]:
    return {measure.name: measure for measure in measures(rows, (native, native))}


def times(teacher: float | str, student: float | str, folded: float | str) -> dict[str, float | str]:
    return {TEACHER: teacher, STUDENT: student, FOLDED: folded}


# Sizes


def test_sizes_are_multiples_of_the_sides_and_the_validated_one_is_exact() -> None:
    assert sizes_of((512, 768), (2, 0.5, 1)) == [(256, 384), (512, 768), (1024, 1536)]
    assert sizes_of((136, 136), (1, 2)) == [(136, 136), (256, 256)]  # 272 could not be halved often enough
    assert sizes_of((128, 128), (0.25, 0.5)) == [(64, 64)]


# What is measured at a size


def test_a_size_is_measured_for_all_with_their_spread_peak_and_weights() -> None:
    found = sweep(pretend())
    found.measure((64, 64), 64, takes(teacher=20, student=12, folded=10))
    assert [(row.contender, row.ms, row.q20, row.q80, row.peak, row.weights) for row in found.rows] == [
        (TEACHER, 20, 19, 21, 20_000, 1000),
        (STUDENT, 12, 11, 13, 12_000, 1500),
        (FOLDED, 10, 9, 11, 10_000, 1700),
    ]
    assert found.ms((64, 64)) == {TEACHER: 20, STUDENT: 12, FOLDED: 10}


def told_of_pictures() -> LinzooError:
    """What drawing raises where memory ran out."""
    error = LinzooError("Not enough memory on cuda to draw 1 at a time at 64x64 pixels.")
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    return error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), told_of_pictures()]
)
def test_who_runs_out_of_memory_drops_out_and_the_others_go_on(error: Exception) -> None:
    found = sweep(pretend())
    found.measure((64, 64), 64, {TEACHER: fails(error), **takes(student=12, folded=10)})
    assert found.ms((64, 64)) == {STUDENT: 12, FOLDED: 10}
    assert found.notes((64, 64)) == {TEACHER: FULL}
    assert [row.contender for row in found.rows] == list(NAMES)


def test_memory_that_runs_out_in_a_switch_is_told_of_who_was_switched_to() -> None:
    def fold() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    found = sweep(pretend())
    found.measure((64, 64), 64, takes(teacher=20, student=12) | {FOLDED: Task(lambda _: 1.0, fold)})
    assert (found.ms((64, 64)), found.notes((64, 64))) == ({TEACHER: 20, STUDENT: 12}, {FOLDED: FULL})


def test_the_tensors_of_a_call_that_failed_are_gone_before_the_others_go_on() -> None:
    alive: list[bool] = []

    class Big:
        def __del__(self) -> None:
            alive[:] = [False]

    def run(_: object) -> None:
        big = Big()
        alive[:] = [True]
        raise MemoryError(str(id(big)))

    def student(_: object) -> float:
        seen.append(alive[0])
        return 1.0

    seen: list[bool] = []
    sweep(pretend()).measure((64, 64), 64, {TEACHER: Task(run), STUDENT: Task(student)})
    assert seen == [False, False]  # timed, and measured once more for its memory


def test_any_other_error_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="mat1"):
        sweep(pretend()).measure((64, 64), 64, {TEACHER: fails(RuntimeError("mat1 and mat2"))})


def test_a_size_over_the_budget_is_left_out_for_all() -> None:
    found = sweep(pretend())
    found.measure((64, 64), 64, takes(teacher=500, student=300, folded=200))
    found.measure((128, 128), 256, takes(teacher=4000, student=1200, folded=800))
    assert found.ms((128, 128)) == {TEACHER: 4000, STUDENT: 1200, FOLDED: 800}
    # 8 times as long for 4 times the tokens is a slope of 1.5; the students' is 1.
    found.measure((256, 256), 1024, {who: fails(AssertionError()) for who in NAMES})
    seconds = CALLS * (32_000 + 4800 + 3200) / 1000
    assert seconds == 200
    note = "left out: it would take about 200 s, and a size may take 60 s"
    assert found.notes((256, 256)) == dict.fromkeys(NAMES, note)
    found.measure((256, 256), 1024, takes(teacher=9, student=9, folded=9), always=True)
    assert found.ms((256, 256)) == dict.fromkeys(NAMES, 9)


def test_the_budget_knows_what_a_picture_takes_from_its_calls() -> None:
    found = sweep(pretend())
    found.measure((64, 64), 64, takes(teacher=1), at_least={TEACHER: 12_000})
    found.measure((64, 64), 64, takes(teacher=1), at_least={TEACHER: 12_001})
    assert [row.ms for row in found.rows] == [1, None]  # 5 times 12 seconds are the budget


def test_who_could_not_do_the_call_does_not_draw_the_picture() -> None:
    found = sweep(pretend())
    found.measure((64, 64), 64, {TEACHER: fails(AssertionError()), **takes(student=2)}, out={TEACHER: FULL})
    assert (found.ms((64, 64)), found.notes((64, 64))) == ({STUDENT: 2}, {TEACHER: FULL})


def test_a_cpu_is_not_asked_for_memory_that_it_does_not_have() -> None:
    found = sweep(pretend(free=150_000))
    found.measure((64, 64), 64, takes(teacher=40, student=30, folded=20))
    found.measure((128, 128), 256, {TEACHER: fails(AssertionError()), **takes(student=60, folded=40)})
    note = "out of memory: it would take about 0.0 GB, and 0.0 are free"  # 160,000 bytes of 150,000
    assert found.notes((128, 128)) == {TEACHER: note}
    assert found.ms((128, 128)) == {STUDENT: 60, FOLDED: 40}


def test_on_a_device_that_is_timed_by_the_host_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    device = torch.device("mps")
    found = sweep(pretend(), device)
    found.measure((64, 64), 64, takes(teacher=20))
    assert waited == [device, device]  # after the switch and after the call
    assert [(row.ms, row.peak) for row in found.rows] == [(20, None)]


@given(st.floats(1, 2), st.floats(1e-3, 1e6), st.integers(1, 10**5), st.integers(2, 64), st.integers(2, 64))
def test_a_straight_line_on_logarithmic_paper_is_foretold(
    slope: float, unit: float, tokens: int, first: int, second: int
) -> None:
    points = [(n, unit * n**slope) for n in (tokens, first * tokens)]
    target = first * second * tokens
    assert predict(points, target) == pytest.approx(unit * target**slope, rel=1e-6)


def test_little_is_foretold_of_little() -> None:
    assert predict([], 64) is None
    assert predict([(64, 3.0)], 256) == 12  # one point: each token takes as long
    assert (
        predict([(64, 3.0), (256, 3.0)], 1024) == 12
    )  # no growth in small sizes promises none in large ones
    assert predict([(64, 1.0), (256, 1000.0)], 1024) == 16_000  # a hiccup is not a law


# What it comes to


def test_the_ratios_are_of_the_faster_student_at_the_validated_and_the_largest_size() -> None:
    rows = rows_of(CALL, {128: times(10, 12.5, 20), 256: times(90, 45, 30)})
    rows += rows_of("picture in 4 steps", {128: times(50, 60, 80)})
    found = by_name(rows, 128)
    assert list(found) == ["speed-native", "speed-largest", "memory-largest", "speed-crossing"]
    assert found["speed-native"].value == 0.8
    assert found["speed-largest"].value == 3
    assert [found[name].better for name in found] == ["higher", "higher", "lower", "lower"]
    assert all(measure.bar is None for measure in found.values())
    assert found["speed-native"].detail == (
        "UNet call at 128x128: teacher 10 ms / student 12.5 ms / student, folded 20 ms; "
        "picture in 4 steps at 128x128: teacher 50 ms / student 60 ms / student, folded 80 ms"
    )
    assert found["speed-largest"].title == "Times as fast as the teacher, a UNet call at 256x256"
    assert "teacher 90 ms / student 45 ms / student, folded 30 ms" in found["speed-largest"].detail


def test_memory_counts_the_weights_and_tells_what_is_without_them() -> None:
    measure = by_name(rows_of(CALL, {128: times(99, 10, 8.3)}), 128)["memory-largest"]
    assert measure.value == (8300 + 1700) / (99_000 + 1000)
    assert measure.detail == (
        "teacher 0.1 MB / student 0.0115 MB / student, folded 0.01 MB; without the UNet's weights: "
        "teacher 0.099 MB / student 0.01 MB / student, folded 0.0083 MB"
    )


def test_the_crossing_is_told_in_tokens_and_pixels() -> None:
    rows = rows_of(CALL, {64: times(10, 20, 25), 256: times(80, 45, 40)})
    measure = by_name(rows, 128)["speed-crossing"]
    assert measure.value == pytest.approx(256)  # twice as slow at 64 tokens, twice as fast at 1024
    assert measure.unit == "tokens"
    assert measure.detail.startswith(
        "the student is faster from 256 tokens, which a picture of about 128x128 has; UNet call at 64x64: teacher 10 ms"
    )


def test_a_student_that_never_wins_is_said_to_never_win() -> None:
    rows = rows_of(CALL, {64: times(10, 20, 30), 128: times(20, 25, 30)})
    measure = by_name(rows, 64)["speed-crossing"]
    assert (measure.value, measure.skipped) == (
        None,
        "the student is not faster up to 256 tokens (128x128)",
    )
    assert "teacher 20 ms / student 25 ms" in measure.detail


def test_a_student_that_always_wins_does_so_from_the_smallest_size_on() -> None:
    rows = rows_of(CALL, {64: times(10, 9, 9), 128: times(40, 25, 24)})
    measure = by_name(rows, 64)["speed-crossing"]
    assert measure.value == 64
    assert "from 64 tokens or fewer" in measure.detail


def test_where_the_teacher_runs_out_of_memory_the_size_before_is_the_largest() -> None:
    rows = rows_of(CALL, {128: times(10, 8, 5), 256: times(40, 25, 20), 512: times(FULL, 100, 90)})
    found = by_name(rows, 512)
    assert found["speed-largest"].value == 2
    told = f"UNet call at 512x512: teacher {FULL} / student 100 ms / student, folded 90 ms"
    assert found["speed-largest"].detail.endswith(told)
    assert (found["speed-native"].value, found["speed-native"].skipped) == (None, told)
    assert found["memory-largest"].title == "Memory over the teacher's, a UNet call at 256x256"
    assert "512" not in found["speed-crossing"].detail


def test_a_size_that_was_left_out_is_told_once() -> None:
    note = "left out: it would take about 99 s, and a size may take 60 s"
    rows = rows_of(CALL, {128: times(10, 8, 5), 256: times(note, note, note)})
    assert by_name(rows, 128)["speed-largest"].detail.endswith(f"; UNet call at 256x256: {note}")


def test_nothing_is_claimed_without_the_teacher() -> None:
    rows = rows_of(CALL, {128: times(FULL, 8, 5)})
    found = by_name(rows, 128)
    assert {measure.value for measure in found.values()} == {None}
    assert all(measure.skipped and not measure.charts for measure in found.values())
    assert found["speed-crossing"].skipped == "teacher and student were not both measured at any size"


def test_the_validated_size_may_be_left_away() -> None:
    found = by_name(rows_of(CALL, {128: times(10, 8, 5)}), 256)
    assert found["speed-native"].skipped == "256x256 is not among the sizes that were to be measured"
    assert found["speed-largest"].value == 2


def test_a_device_whose_memory_torch_does_not_count_is_named_as_such() -> None:
    rows = [
        Row(what=CALL, size=(64, 64), tokens=64, contender=who, ms=1.0, weights=1)
        for who in (TEACHER, STUDENT)
    ]
    found = by_name(rows, 64)
    assert found["memory-largest"].skipped == "torch does not count this device's memory"
    assert found["speed-native"].value == 1


def test_the_charts_are_logarithmic_with_the_teacher_in_each() -> None:
    rows = rows_of(CALL, {64: times(10, 20, 25), 256: times(80, 45, 40)})
    rows += rows_of("picture in 4 steps", {64: times(50, 60, 80)})
    found = by_name(rows, 64)
    call, picture = found["speed-native"].charts
    memory, whole = found["memory-largest"].charts
    assert whole.title == "Peak memory, weights included, of a picture in 4 steps"
    assert [chart.title for chart in (call, picture, memory)] == [
        "Time of a UNet call",
        "Time of a picture in 4 steps",
        "Peak memory, weights included, of a UNet call",
    ]
    assert all(chart.logarithmic and list(chart.series) == list(NAMES) for chart in (call, picture, memory))
    assert thaw(call.series) == {
        TEACHER: {"64": 10, "1024": 80},
        STUDENT: {"64": 20, "1024": 45},
        FOLDED: {"64": 25, "1024": 40},
    }
    assert memory.series[TEACHER]["64"] == (10_000 + 1000) / 1e6


def test_every_row_is_in_the_report() -> None:
    rows = rows_of(CALL, {64: times(FULL, 20, 25)}) + rows_of("picture in 4 steps", {64: times(FULL, 60, 80)})
    written = json.loads(json.dumps(thaw(by_name(rows, 64)["speed-native"].data)))["rows"]
    assert len(written) == 6
    assert written[0] == {
        "what": CALL, "size": [64, 64], "tokens": 64, "contender": TEACHER, "ms": None, "q20": None, "q80": None,
        "peak": None, "weights": 1000, "note": FULL,
    }  # fmt: skip


# The real thing, small


def subject_of(pipe: Any, checkpoint: Path, **settings: Any) -> SimpleNamespace:
    """What the check takes of a subject."""

    @contextmanager
    def mounted() -> Iterator[Handle]:
        handle = load(pipe, checkpoint)
        try:
            yield handle
        finally:
            handle.unload()

    return SimpleNamespace(
        pipe=pipe, mounted=mounted, size=(32, 32), device="cpu", seed=0, progress=Progress(),
        settings=SimpleNamespace(**({"speed_sizes": (1, 2), "steps": 2} | settings)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_linfusion(tiny_sd().unet, tmp_path_factory.mktemp("speed") / "checkpoint")


def quick() -> Stopwatch:
    """The real one, without a second for each."""
    real = Stopwatch()
    return Stopwatch(lambda tasks, device, _: real.times(tasks, device, 0.0), real.peak, real.free)


def test_a_tiny_pipeline_is_measured_in_all_three_ways(checkpoint: Path) -> None:
    pipe = tiny_sd()
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    found = {
        measure.name: measure for measure in run(subject_of(pipe, checkpoint, speed_sizes=(1,)), quick())
    }
    rows = thaw(found["speed-native"].data)["rows"]
    assert [(row["what"], row["size"][0], row["tokens"], row["contender"]) for row in rows] == [
        (what, 32, 256, who) for what in (CALL, "picture in 2 steps") for who in NAMES
    ]
    assert all(row["ms"] > 0 and row["q20"] <= row["ms"] <= row["q80"] and row["peak"] > 0 for row in rows)
    # Two steps of two rows each and a decoder take longer than a call of two rows.
    assert rows[3]["ms"] > rows[0]["ms"]
    assert found["speed-native"].value == rows[0]["ms"] / min(rows[1]["ms"], rows[2]["ms"])
    after = pipe.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_switching_changes_who_answers_and_leaves_nothing_behind(checkpoint: Path) -> None:
    pipe = tiny_sd()
    asked = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(2, 5, 32)

    def answer() -> torch.Tensor:
        return pipe.unet(asked, 500, encoder_hidden_states=text, return_dict=False)[0]

    with torch.no_grad():
        stock = answer()
        handle = load(pipe, checkpoint)
        student = answer()
        with Contenders(handle) as contenders:
            assert contenders.names == NAMES
            found: dict[str, list[torch.Tensor]] = {who: [] for who in NAMES}
            for who in (*NAMES, *reversed(NAMES), TEACHER):
                contenders.use(who)
                found[who].append(answer())
                assert handle.folded == (who == FOLDED)
        assert handle.modules
        assert not handle.folded
        assert torch.equal(answer(), student)
        handle.unload()
        assert torch.equal(answer(), stock)
    assert all(torch.equal(each, stock) for each in found[TEACHER])
    assert all(torch.equal(each, student) for each in found[STUDENT])
    assert max((each - student).abs().max() for each in found[FOLDED]) < 1e-5
    assert (student - stock).abs().max() > 1e-3


def test_the_weights_of_each_are_counted_once(checkpoint: Path) -> None:
    pipe = tiny_sd()
    stock = 4 * sum(parameter.numel() for parameter in pipe.unet.parameters())
    handle = load(pipe, checkpoint)
    new = 4 * sum(parameter.numel() for parameter in handle.linfusion.parameters())
    widths = [layer.to_q.in_features for layer in handle.modules.values()]
    products = sum(4 * (5 * c * (c + 1) + 2 * c * c) for c in widths)  # 5 matrices with a bias, and 2 without
    with Contenders(handle) as contenders:
        found = {who: contenders.weights(who) for who in NAMES}
    assert found[TEACHER] == stock
    assert found[STUDENT] == stock + new
    assert found[FOLDED] == found[STUDENT] + products


def test_sdxl_is_told_its_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_sdxl()
    checkpoint = write_linfusion(pipe.unet, tmp_path / "checkpoint")
    told: list[Any] = []
    pipe.unet.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(
            (args[0].shape, kwargs["added_cond_kwargs"]["time_ids"].tolist())
        ),
        with_kwargs=True,
    )
    found = list(run(subject_of(pipe, checkpoint, speed_sizes=(1,), steps=1), count_calls()))
    assert told[0] == ((2, 4, 16, 16), [[32, 32, 0, 0, 32, 32]] * 2)
    assert {str(each) for each in told} == {str(told[0])}  # a picture's calls are of the same kind
    # The first level has no attention; the second one has a quarter of the tokens.
    assert {row["tokens"] for row in thaw(found[0].data)["rows"]} == {64}


def count_calls() -> Stopwatch:
    """Does the work once, and says that it took a millisecond and a byte."""

    def times(tasks: Mapping[str, Task], *_: object) -> dict[str, Timing]:
        for task in tasks.values():
            task.once()
        return {who: Timing(1.0, 1.0, 1.0) for who in tasks}

    return Stopwatch(times, lambda *_: 1, lambda _: 10**12)


def test_sizes_beyond_the_validated_one_have_a_budget_and_it_has_none(checkpoint: Path) -> None:
    def slow(by_size: Callable[[int], float]) -> Stopwatch:
        sizes = iter((32, 64))  # the calls

        def times(tasks: Mapping[str, Task], *_: object) -> dict[str, Timing]:
            ms = by_size(next(sizes))
            return {who: Timing(ms, ms, ms) for who in tasks}

        return Stopwatch(times, lambda *_: 1, lambda _: 10**12)

    subject = subject_of(tiny_sd(), checkpoint)
    found = list(run(subject, slow(lambda side: 10_000.0)))
    assert found[0].value == 1
    assert "picture in 2 steps at 32x32: left out" in found[0].detail
    assert "UNet call at 64x64: left out: it would take about 600 s" in found[1].detail
    rows = thaw(found[0].data)["rows"]
    assert sum(row["ms"] is not None for row in rows) == 3
    assert math.isclose(found[3].value or math.nan, 256)
