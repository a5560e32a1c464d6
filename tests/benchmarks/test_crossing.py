"""From where on linear attention is the faster one."""

from __future__ import annotations

import pytest
from linzoo_benchmarks.crossing import Crossing, crossing
from linzoo_benchmarks.report import tables
from made_up import row

LINEAR = {tokens: 2e-3 * tokens for tokens in (256, 1024, 4096, 16384)}
SOFTMAX = {tokens: 1e-6 * tokens**2 for tokens in LINEAR}


def test_power_laws_meet_where_they_are_equal() -> None:
    found = crossing(LINEAR, SOFTMAX)
    assert found is not None
    assert found.tokens == pytest.approx(2000)
    assert str(found) == "from 2,000 tokens"


def test_ahead_everywhere_and_nowhere() -> None:
    ahead = crossing({64: 1.0, 128: 1.0}, {64: 1.0, 128: 2.0})
    assert str(ahead) == "from 64 tokens or fewer"
    behind = crossing({64: 1.0, 128: 2.0}, {64: 0.5, 128: 1.0})
    assert behind == Crossing(None, 64, 128)
    assert str(behind) == "not up to 128 tokens"


def test_the_last_crossing_counts() -> None:
    found = crossing({1: 1.0, 2: 3.0, 4: 1.0}, {1: 2.0, 2: 1.0, 4: 3.0})
    assert found is not None
    assert found.tokens is not None
    assert found.tokens == pytest.approx(2 * 2**0.5)


def test_only_what_both_were_measured_at_counts() -> None:
    assert crossing({64: 1.0}, {128: 1.0}) is None
    assert crossing({64: 1.0, 128: 9.0}, {64: 2.0}) == Crossing(64, 64, 64)


def test_the_report_names_tokens_and_pixels() -> None:
    rows = [
        row(provider, (1, tokens, 10, 64), time, kernel="layer")
        for provider, times in (("folded", LINEAR), ("softmax", SOFTMAX))
        for tokens, time in times.items()
    ]
    cells = tables(rows)[1][1]
    level = "B = 1, 10 heads of 64 (C = 640), bfloat16, NVIDIA H200"
    assert cells == [(level, "from 2,000 tokens", "sdxl level 0: 716 px; sd21 level 1: 716 px")]


def test_rows_of_several_machines_and_runs_are_not_mixed() -> None:
    rows = [
        row("folded", (1, 64, 10, 64), 1.0, kernel="layer", device="NVIDIA H200"),
        row("softmax", (1, 64, 10, 64), 2.0, kernel="layer", device="NVIDIA A100"),
        row("folded", (1, 64, 10, 64), 1.0, kernel="layer", device="NVIDIA A100", timestamp="later"),
        row("folded", (1, 64, 10, 64), 1.0, kernel="layer", device="NVIDIA A100", dtype="float16"),
    ]
    assert len(tables([each for each in rows if "H200" not in each.device])) == 1
    both = [
        *rows,
        row("softmax", (1, 64, 10, 64), 2.0, kernel="layer"),
        row("folded", (1, 64, 10, 64), 3.0, kernel="layer", device="NVIDIA A100"),
    ]
    assert [(cells[0][-11:], cells[1]) for cells in tables(both)[1][1]] == [
        ("NVIDIA H200", "from 64 tokens or fewer"),
        ("NVIDIA A100", "not up to 64 tokens"),
    ]
