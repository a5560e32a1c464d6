"""What rows say about the bars of distillation, and the page that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from linzoo_benchmarks.csvfile import CsvFile
from linzoo_benchmarks.distillation.arms import ARMS, STEPS
from linzoo_benchmarks.distillation.bars import Verdict, judge, steps_to_match
from linzoo_benchmarks.distillation.page import NAMES, Results, current, page
from linzoo_benchmarks.distillation.rows import (
    ABLATION,
    CURVE,
    AblationRow,
    CurveRow,
    ResolutionRow,
    SpeedRow,
    TransferRow,
)
from linzoo_benchmarks.errors import BenchmarkError

from linzoo.cli.main import main


def ablation(arm: str, kd: float, seed: int = 0, **changes: Any) -> AblationRow:
    fields = {
        "guided": 10 * kd, "features": kd, "psnr": 20.0, "steps": STEPS, "batch": 8, "seconds": 60.0, "recipe": "r",
    }  # fmt: skip
    return AblationRow(arm=arm, kd=kd, seed=seed, **(fields | changes))


def curve(arm: str, seed: int, *kds: float) -> list[CurveRow]:
    every = STEPS // len(kds)
    return [
        CurveRow(arm=arm, seed=seed, step=every * count, kd=kd, recipe="r") for count, kd in enumerate(kds, 1)
    ]


def transfer(start: str, kd: float) -> TransferRow:
    return TransferRow(start=start, seed=0, kd=kd, guided=kd, features=kd, psnr=20.0)


def speed(loop: str, turn: int, samples: float, peak: float) -> SpeedRow:
    return SpeedRow(
        size="mini", loop=loop, round=turn, batch=16, samples_per_second=samples, peak_mb=peak, resident_mb=0.0
    )  # fmt: skip


def verdicts(**rows: Sequence[Any]) -> dict[str, Verdict]:
    names = ("ablation", "curves", "transfer", "speed")
    return {each.text: each for each in judge(*(rows.get(name, ()) for name in names))}


def test_without_rows_no_bar_is_met_or_missed() -> None:
    found = verdicts()
    assert len(found) == 7
    assert {each.met for each in found.values()} == {None}


def test_final_kd_is_a_ratio_of_means_over_seeds() -> None:
    rows = [ablation("official", 0.04), ablation("official", 0.08, 1), ablation("ours", 0.01), ablation("ours", 0.02, 1)]  # fmt: skip
    found = verdicts(ablation=rows)["final KD, ours complete over official"]
    assert found.found == pytest.approx(0.25)
    assert found.met


def test_guided_kd_has_a_bar_of_its_own() -> None:
    rows = [ablation("official", 0.04), ablation("ours", 0.01, guided=0.2)]
    found = verdicts(ablation=rows)["guided KD at 7.5, ours complete over official"]
    assert (found.found, found.met) == (pytest.approx(0.5), False)


def test_untrained_arms_are_compared_with_each_other() -> None:
    rows = [ablation("copy", 0.4), ablation("calibrated", 0.1)]
    found = verdicts(ablation=rows)["untrained KD, calibrated over plain copy"]
    assert (found.found, found.met) == (pytest.approx(0.25), True)


def test_steps_to_match_take_the_first_step_that_is_as_near() -> None:
    rows = [ablation("official", 0.05), ablation("ours", 0.01)]
    curves = [*curve("official", 0, 0.2, 0.1, 0.07, 0.05), *curve("ours", 0, 0.05, 0.03, 0.02, 0.01)]
    assert steps_to_match(rows, curves) == pytest.approx(0.25)


def test_a_seed_that_never_comes_there_counts_as_all_steps() -> None:
    rows = [ablation(arm, 0.05, seed) for arm in ("official", "ours") for seed in (0, 1)]
    curves = [
        *curve("official", 0, 0.1, 0.05), *curve("ours", 0, 0.05, 0.04),
        *curve("official", 1, 0.1, 0.05), *curve("ours", 1, 0.09, 0.06),
    ]  # fmt: skip
    assert steps_to_match(rows, curves) == pytest.approx(0.75)


def test_the_best_of_ours_counts_for_the_fine_tune() -> None:
    rows = [transfer("pretrained", 0.1), transfer("delta", 0.09), transfer("delta + calibrate", 0.05)]
    found = verdicts(transfer=rows)["fine-tune, best of ours over pretrained"]
    assert (found.found, found.met) == (pytest.approx(0.5), True)


def test_speed_is_compared_turn_by_turn() -> None:
    rows = [speed("published", 0, 10, 100), speed("published", 1, 20, 100), speed("published", 2, 10, 100)]
    rows += [speed("ours, two micro-batches", turn, 32, 40) for turn in range(3)]
    found = verdicts(speed=rows)
    assert found["speed on mini, ours over published"].found == pytest.approx(3.2)
    assert found["peak memory on mini, ours over published"].found == pytest.approx(0.4)


def test_rows_of_earlier_settings_are_left_out() -> None:
    rows = [
        ablation("ours", 0.5, recipe="old"),
        ablation("ours", 0.1, recipe="new"),
        ablation("ours", 0.2, 1),
    ]
    assert current(rows) == rows[1:]


def test_the_page_says_nothing_of_what_was_not_measured() -> None:
    text = page(Results())
    assert text.startswith("# Distillation")
    assert "## " not in text


def test_the_page_shows_means_and_spreads() -> None:
    rows = [ablation("official", 0.04), ablation("official", 0.06, 1), ablation("ours", 0.01)]
    text = page(Results(ablation=rows, curves=curve("official", 0, *[0.1] * (STEPS // 20))))
    assert "| official: random start, losses 1 / 0.5 / 0.5 | 0.05000 ± 0.01414 |" in text
    assert "2 seeds" in text
    assert "**missed**" not in text
    assert "| speed on mini, ours over published | ≥ 1.50 |  | not measured |" in text
    labels = [arm.label for arm in ARMS if f"| {arm.label} |" in text]
    assert labels == [ARMS[0].label, "ours complete"]


def test_the_page_has_every_section_that_has_rows() -> None:
    resolution = [
        ResolutionRow(mixer=mixer, seed=0, factor=factor, tokens=256 * factor, error=0.1, growth=1.5)
        for mixer in ("normalised", "sum")
        for factor in (1, 2, 4)
    ]
    text = page(
        Results(
            transfer=[transfer("pretrained", 0.1)],
            resolution=resolution,
            speed=[speed("published", 0, 10, 100), speed("ours", 0, 20, 90)],
        )
    )
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Bars",
        "## A fine-tune, without training",
        "## More tokens than it was made for",
        "## Speed and memory of the loop",
    ]
    assert "| mixer | 1x (256 tokens) | 2x (512 tokens) | 4x (1,024 tokens) | growth |" in text
    assert "| ours | 20.0 | 90 | 0 | 2.00 (2.00 to 2.00) | 0.90 (0.90 to 0.90) |" in text


def test_every_table_has_a_cell_for_every_head() -> None:
    rows = [ablation(arm.name, 0.1, seed) for arm in ARMS for seed in (0, 1)]
    curves = [row for arm in ARMS for row in curve(arm.name, 0, *[0.1] * (STEPS // 20))]
    results = Results(
        ablation=rows, curves=curves, transfer=[transfer("delta", 0.1)], speed=[speed("published", 0, 10, 100)]
    )  # fmt: skip
    for block in page(results).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_the_page_tells_of_the_control_at_its_best_rate() -> None:
    rows = [ablation("official", 0.08), ablation("tuned", 0.04), ablation("ours", 0.01)]
    curves = [*curve("tuned", 0, 0.08, 0.06, 0.05, 0.04), *curve("ours", 0, 0.05, 0.04, 0.02, 0.01)]
    text = page(Results(ablation=rows, curves=curves))
    assert (
        "ends at 0.25 of its KD and 0.25 of its guided KD and comes to its final KD in 0.50 of its steps"
        in text
    )


def test_report_writes_the_page_from_the_files(tmp_path: Path) -> None:
    CsvFile(tmp_path / NAMES["ablation"], ABLATION).append(ablation("ours", 0.01))
    file = CsvFile(tmp_path / NAMES["curves"], CURVE)
    for row in curve("ours", 0, 0.02, 0.01):
        file.append(row)
    out = tmp_path / "docs" / "page.md"
    done = CliRunner().invoke(
        main, ["bench", "distill", "report", "--results", str(tmp_path), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "| ours complete | 0.01000 |" in out.read_text()


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAMES["speed"]).write_text("my,own\nimportant,notes\n")
    with pytest.raises(BenchmarkError, match="no CSV file of `linzoo bench distill speed`"):
        Results.read(tmp_path)
