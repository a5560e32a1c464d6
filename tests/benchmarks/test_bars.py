"""What rows say about the bars: pure arithmetic on rows that nobody measured."""

from __future__ import annotations

import dataclasses

import pytest
from linzoo_benchmarks.bars import BARS, Verdict, judge
from linzoo_benchmarks.rows import Row
from linzoo_benchmarks.shapes import MODELS, model_shape
from made_up import row

XL = (2, 65536, 10, 64)


def verdict_on(text: str, rows: list[Row]) -> Verdict:
    (found,) = [verdict for verdict in judge(rows) if verdict.bar.text == text]
    return found


def layers(model: str, official: float, folded: float) -> list[Row]:
    shapes = [model_shape(model, level, 4096, 2).sizes for level in range(len(MODELS[model]))]
    return [
        row(provider, sizes, median, kernel="layer", peak_mb=100.0 * median)
        for sizes in shapes
        for provider, median in (("official", official), ("folded", folded))
    ]


def test_nothing_measured_is_neither_met_nor_missed() -> None:
    assert {verdict.met for verdict in judge([])} == {None}
    assert len({bar.text for bar in BARS}) == len(BARS) == 20


def test_the_worst_shape_decides() -> None:
    rows = [
        row("triton", XL, 0.2, copy_fraction=0.86),
        row("triton", (1, 262144, 5, 64), 0.2, copy_fraction=0.84),
        row("torch", XL, 0.9, copy_fraction=0.1),
    ]
    wide = verdict_on("forward, d = 64, L >= 65,536", rows)
    assert (wide.worst, wide.met) == (0.84, True)
    assert verdict_on("forward, d = 64, L >= 262,144", rows).cells()[1:] == ("≥ 85%", "84%", "MISSED")


def test_rows_of_other_modes_widths_and_dtypes_do_not_count() -> None:
    rows = [
        row("triton", XL, 0.2, copy_fraction=0.1, dtype="float32"),
        row("triton", XL, 0.2, copy_fraction=0.1, mode="backward"),
        row("triton", (2, 65536, 8, 80), 0.2, copy_fraction=0.1),
        row("triton", (2, 65535, 10, 64), 0.2, copy_fraction=0.1),
        row("triton", XL, None, note="out of memory"),
    ]
    assert verdict_on("forward, d = 64, L >= 65,536", rows).met is None
    assert verdict_on("backward, d < 160, L >= 65,536", rows).met is False
    other = [row("triton", XL, 0.2, copy_fraction=0.1, device="NVIDIA A100")]
    assert {verdict.met for verdict in judge(other)} == {None}


def test_heads_of_160_are_granted_that_they_read_queries_twice() -> None:
    wide = (2, 65536, 8, 160)
    rows = [row("triton", wide, 0.2, copy_fraction=0.56, mode="backward")]
    assert verdict_on("backward, d = 160, L >= 65,536, as 9 units", rows).worst == pytest.approx(0.72)
    assert verdict_on("backward, d < 160, L >= 65,536", rows).met is None


def test_only_rows_of_one_run_are_compared() -> None:
    rows = [row("triton", XL, 0.2, timestamp="now"), row("eager", XL, 1.0, timestamp="before")]
    text = "forward against the official order, L >= 65,536"
    assert verdict_on(text, rows).met is None
    assert verdict_on(text, [*rows, row("eager", XL, 0.9, timestamp="now")]).worst == pytest.approx(4.5)


def test_speedups_are_taken_shape_by_shape() -> None:
    rows = [row("triton", XL, 0.2), row("eager", XL, 1.0), row("eager-compiled", XL, 0.3)]
    rows += [row("eager", (2, 65536, 5, 64), 0.1), row("fbi_la-ready", XL, 0.41)]
    assert verdict_on("forward against the official order, L >= 65,536", rows).worst == pytest.approx(5)
    assert verdict_on("forward against torch.compile of it, L >= 65,536", rows).met is False
    assert verdict_on("forward against fbi_la at its best, B2 L65536 H10 d64", rows).met is True
    assert verdict_on("forward against fbi_la at its best, B8 L16384 H16 d64", rows).met is None


@pytest.mark.parametrize(("median", "met"), [(0.0249, True), (0.0251, False)])
def test_a_time_is_a_most(median: float, met: bool) -> None:
    assert verdict_on("forward, B2 L4096 H10 d64", [row("triton", (2, 4096, 10, 64), median)]).met is met


def test_layers_of_a_unet_count_as_often_as_they_are_there() -> None:
    rows = layers("sdxl", 2.0, 1.0)
    text = "layers of SD-XL, folded against official, 4096 px"
    assert verdict_on(text, rows).worst == pytest.approx(2)
    slow = [dataclasses.replace(each, median=2.0) if _is_folded_outer(each) else each for each in rows]
    assert verdict_on(text, slow).worst == pytest.approx((10 * 2 + 60 * 2) / (10 * 2 + 60 * 1))
    assert verdict_on(text, rows[2:]).met is None


def _is_folded_outer(each: Row) -> bool:
    return each.provider == "folded" and each.heads == 10


def test_peak_memory_and_softmax() -> None:
    rows = layers("sd15", 2.0, 1.1)
    text = "peak memory of a layer, folded over official, L >= 16,384"
    assert verdict_on(text, rows).cells()[1:] == ("≤ 50%", "55%", "MISSED")
    unknown = [dataclasses.replace(each, tokens=2**22, peak_mb=None) for each in rows[:2]]
    assert verdict_on(text, [*rows, *unknown]).worst == pytest.approx(0.55)
    pair = [
        row(name, (2, 4096, 10, 64), time, kernel="layer") for name, time in (("folded", 1), ("softmax", 1.2))
    ]
    assert verdict_on("layer, folded against softmax, C = 640, L >= 4096", pair).met is True
