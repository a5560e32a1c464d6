"""``benchmarks/on_gpu.sh`` with programs that only say how they were called in the place of Python, pip and nvidia-smi."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "on_gpu.sh"
STUB = """#!/usr/bin/env bash
printf '%s\\n' "$(basename "$0") $*" >> "$CALLS"
case "$*" in *"$FAILS"*) exit "$STATUS" ;; esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A checkout with the script alone, and a folder of stubs."""
    (tmp_path / "repo" / "benchmarks").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "repo" / "benchmarks")
    (tmp_path / "bin").mkdir()
    for name in ("python", "pip", "nvidia-smi"):
        stub = tmp_path / "bin" / name
        stub.write_text(STUB)
        stub.chmod(0o755)
    return tmp_path


def run(machine: Path, part: str, fails: str = "nothing", status: int = 1) -> tuple[int, list[str]]:
    """Exit status, and how linzoo bench and pytest were called."""
    calls = machine / "calls"
    env = os.environ | {
        "PATH": f"{machine / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(calls),
        "FAILS": fails,
        "STATUS": str(status),
    }
    script = machine / "repo" / "benchmarks" / "on_gpu.sh"
    done = subprocess.run(["bash", str(script), part, str(machine / "out")], env=env, capture_output=True)
    lines = calls.read_text().splitlines()
    assert all("--no-deps" in line for line in lines if line.startswith("pip "))
    shown = [line.split(" bench ")[-1].split(" -m pytest ")[-1] for line in lines if line[:6] == "python"]
    return done.returncode, [" ".join(line.split()[:1]) for line in shown[1:]]


def test_all_parts_in_their_order_leave_at_most_eight_files(machine: Path) -> None:
    assert run(machine, "all") == (
        0,
        ["kernels", "report", "layer", "report", "-m", "kernels", "report"],
    )
    # The stubs write no CSV and PNG: two of each come on top.
    assert len(list((machine / "out").iterdir())) + 4 <= 8


def test_a_part_that_fails_is_told_by_the_exit_status_and_the_others_run(machine: Path) -> None:
    status, calls = run(machine, "all", fails="bench kernels")
    assert status == 1
    assert calls.count("layer") == 1


@pytest.mark.parametrize("status", [124, 137])
def test_a_part_that_is_cut_short_is_no_failure(machine: Path, status: int) -> None:
    assert run(machine, "layer", fails="bench layer", status=status) == (0, ["layer", "report"])
    assert "cut short" in (machine / "out" / "layer.txt").read_text()


def test_no_such_part(machine: Path) -> None:
    assert run(machine, "everything") == (2, [])


def test_every_part_says_its_options_as_the_commands_have_them() -> None:
    from linzoo_benchmarks.kernels import MODES, PROVIDERS
    from linzoo_benchmarks.shapes import select_shapes

    words = SCRIPT.read_text().split()
    given = {option: {b for a, b in itertools.pairwise(words) if a == option} for option in
             ("--provider", "--mode", "--shape")}  # fmt: skip
    assert given["--provider"] <= {each.name for each in PROVIDERS}
    assert given["--mode"] <= set(MODES)
    assert len(select_shapes(sorted(given["--shape"]))) == 3
