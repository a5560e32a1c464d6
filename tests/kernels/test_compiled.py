"""The gate of the shipped configs: compiled ahead of time for both targets, they fit, hardly spill and use tensor cores.

Triton compiles only where its interpreter is off, so it runs in a process of its own.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from linzoo_benchmarks import compiled
from linzoo_benchmarks.compiled import Report, broken_rules, cases, table, write_csv
from linzoo_kernels import configs

REPORT = Report(
    kernel="state_forward", width=64, dtype="bfloat16", target="sm_90", block_rows=64, num_warps=4, num_stages=3,
    precision="", shared=45_056, registers=136, spills=0, wgmma=True, mma_sync=False, cp_async=True,
    programs_per_sm=3, planned_per_sm=3, triton="3.7.1",
)  # fmt: skip


def compile_for_real(tmp_path: Path, *arguments: str) -> list[dict[str, str]]:
    """The rows of the CSV of `python -m linzoo_benchmarks.compiled`, which must find no broken rule."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    out = tmp_path / "compiled.csv"
    command = [sys.executable, "-m", "linzoo_benchmarks.compiled", "--out", str(out), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(out.read_text().splitlines()))


def test_half_precision_configs(tmp_path: Path) -> None:
    # The configs of bfloat16 are those of float16, and a config serves all head dims up to its width; the slow test has all.
    choice = "--width", "64", "128", "160", "--channels", "640", "--dtype", "bfloat16"
    rows = compile_for_real(tmp_path, *choice)
    assert len(rows) == 30
    for row in rows:
        assert int(row["programs_per_sm"]) >= int(row["planned_per_sm"]), row
        if row["target"] == "sm_90" and row["kernel"] != "ln_leaky_relu":
            assert row["wgmma"] == "1", row


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_shipped_config(tmp_path: Path) -> None:
    rows = compile_for_real(tmp_path, "--processes", "2")
    assert len(rows) == len(list(cases()))
    without = {
        (row["kernel"], row["width"])
        for row in rows
        if row["dtype"] != "float32" and row["target"] == "sm_90" and row["wgmma"] == "0"
    }
    # wgmma takes 64 rows: the state of a head of 32 channels has fewer, and goes by mma.sync.
    assert {(k, w) for k, w in without if k != "ln_leaky_relu"} == {("state_forward", "32")}


def test_the_cases_cover_every_kernel_width_dtype_and_target() -> None:
    wanted = list(cases())
    assert {case.kernel for case in wanted} == set(configs.KERNELS)
    assert {(c.width, c.dtype, c.target) for c in wanted if c.kernel == "state_backward"} == {
        (width, dtype, target)
        for width in compiled.HEAD_DIMS
        for dtype in configs.DTYPES
        for target in compiled.TARGETS
    }
    variants = [c.variant for c in wanted if (c.width, c.dtype, c.target) == (160, "float16", 90)]
    assert sorted(variants) == ["", "", "", "DK", "DV", "GRADIENT"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shared": 232_449}, "takes 232449 bytes of shared memory, of 232448"),
        ({"target": "sm_80", "shared": 166_913}, "takes 166913 bytes of shared memory, of 166912"),
        ({"spills": 65}, "spills 65 bytes a thread, of 64"),
        ({"wgmma": False}, "uses no tensor core"),
        ({"cp_async": False}, "does not load ahead"),
    ],
)
def test_each_rule_is_noticed_when_broken(change: dict[str, object], message: str) -> None:
    assert broken_rules(REPORT) == []
    (broken,) = broken_rules(replace(REPORT, **change))  # type: ignore[arg-type]
    assert broken.startswith("state_forward, 64, bfloat16, sm_")
    assert message in broken


def test_a_norm_and_float32_need_no_tensor_core() -> None:
    assert broken_rules(replace(REPORT, kernel="ln_leaky_relu", wgmma=False, cp_async=False)) == []
    assert broken_rules(replace(REPORT, dtype="float32", wgmma=False)) == []
    assert broken_rules(replace(REPORT, dtype="float32", width=160, spills=256)) == []


def test_the_csv_and_the_table(tmp_path: Path) -> None:
    path = tmp_path / "new" / "compiled.csv"
    write_csv([REPORT, replace(REPORT, width=128)], path)
    first, second = csv.DictReader(path.read_text().splitlines())
    assert (first["width"], first["wgmma"], first["mma_sync"], first["triton"]) == ("64", "1", "0", "3.7.1")
    assert second["width"] == "128"
    assert list(path.parent.iterdir()) == [path]
    heading, line = table([REPORT]).splitlines()
    assert heading.split()[:4] == ["kernel", "width", "dtype", "target"]
    assert line.split() == [
        "state_forward",
        "64",
        "bfloat16",
        "sm_90",
        "64/4/3",
        "44.0",
        "136",
        "0",
        "3",
        "3",
        "wgmma",
        "cp_async",
    ]
