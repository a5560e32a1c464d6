"""``benchmarks/on_gpu.sh`` with programs that only say how they were called in the place of Python, pip and nvidia-smi."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from linzoo_benchmarks.bars import judge
from linzoo_benchmarks.kernels import MODES, PROVIDERS
from linzoo_benchmarks.layers import FORMS
from linzoo_benchmarks.rows import Row
from linzoo_benchmarks.shapes import select_shapes
from made_up import row

from linzoo.cli.bench import bench

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
    (tmp_path / "repo" / "out" / "gpu" / "wheels").mkdir(parents=True)
    (tmp_path / "repo" / "out" / "gpu" / "wheels" / "diffusers.whl").touch()
    (tmp_path / "bin").mkdir()
    for name in ("python3", "nvidia-smi"):
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
    (install,) = [line for line in lines if " -m pip " in line]
    assert "--no-deps" in install
    assert "--target out/gpu/site" in install
    shown = [
        line.partition(" bench ")[2] or (line.partition(" -m pytest ")[2] and "pytest") for line in lines
    ]
    return done.returncode, [line.split()[0] for line in shown if line]


def test_all_parts_in_their_order_leave_at_most_eight_files(machine: Path) -> None:
    assert run(machine, "all") == (
        0,
        [
            "kernels",
            "kernels",
            "report",
            "layer",
            "report",
            "pytest",
            "kernels",
            "kernels",
            "report",
            "kernels",
            "report",
        ],
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


@pytest.mark.parametrize("arguments", [[], ["kernels"]])
def test_without_its_arguments_it_says_how_it_is_called(arguments: list[str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: benchmarks/on_gpu.sh PART OUT; PART is one of: kernels,")


def test_without_the_pack_it_says_how_to_make_it(machine: Path) -> None:
    shutil.rmtree(machine / "repo" / "out")
    script = machine / "repo" / "benchmarks" / "on_gpu.sh"
    done = subprocess.run(["bash", str(script), "all", str(machine / "out")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "run 'make gpu-pack'" in done.stderr


def test_every_bar_is_measured_by_what_the_parts_ask_for(machine: Path) -> None:
    run(machine, "all")
    calls = [line.partition(" bench ")[2].split() for line in (machine / "calls").read_text().splitlines()]
    runs = [
        list(_rows(call, when)) for when, call in enumerate(calls) if call[:1] in (["kernels"], ["layer"])
    ]
    last = {each.key: each for rows in runs for each in rows}
    assert [verdict.bar.text for verdict in judge(last.values()) if verdict.met is None] == []


def _rows(call: list[str], when: int) -> Iterator[Row]:
    """What a command on an H200 leaves, with made-up times; click refuses what it does not know."""
    command = bench.commands[call[0]]
    asked = command.make_context(call[0], call[1:]).params
    of_layers = call[0] == "layer"
    names = asked["forms"] if of_layers else asked["providers"]
    assert set(names) <= {each.name for each in (FORMS if of_layers else PROVIDERS)}
    for shape in select_shapes(asked["shapes"]):
        for mode, name in itertools.product(["forward"] if of_layers else asked["modes"], names):
            assert mode in MODES
            yield row(
                name, shape.sizes, 1.0, kernel="layer" if of_layers else "linear_attention", mode=mode,
                copy_fraction=0.5, peak_mb=1.0, timestamp=str(when),
            )  # fmt: skip
