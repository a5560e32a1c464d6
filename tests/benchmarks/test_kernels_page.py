"""docs/kernels.md: its examples run, and its table says what the CSV file says."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")


def test_the_example_runs_and_all_its_outputs_are_the_same() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    outputs: list[torch.Tensor] = []

    class Names(dict[str, Any]):
        def __setitem__(self, name: str, value: Any) -> None:
            if name == "o":
                outputs.append(value)
            super().__setitem__(name, value)

    q, k, v = torch.randn(3, 2, 12, 160)
    pipe = lambda prompt: SimpleNamespace(images=[prompt])  # noqa: E731
    exec(code, {}, Names(q=q, k=k, v=v, pipe=pipe))
    assert len(outputs) == 3
    for o in outputs[1:]:
        assert o.equal(outputs[0]) or (o - outputs[0]).abs().max() < 1e-6


def test_registers_shared_memory_and_spills_are_those_of_the_results() -> None:
    with (ROOT / "benchmarks" / "results" / "kernels-compiled.csv").open(newline="") as file:
        compiled = {
            (row["kernel"], row["width"]): (
                int(row["registers"]), round(int(row["shared"]) / 1024), int(row["spills"])
            )
            for row in csv.DictReader(file)
            if (row["dtype"], row["target"]) == ("bfloat16", "sm_90")
        }  # fmt: skip
    heads, _, *lines = PAGE[PAGE.index("| kernel | d = ") :].partition("\n\n")[0].splitlines()
    widths = re.findall(r"d = (\d+)", heads)
    told = {}
    for line in lines:
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        told |= {(name, width): cell for width, cell in zip(widths, cells, strict=True)}
    assert {key for key, cell in told.items() if cell[0].isdigit()} == {
        key for key in compiled if key[0] != "ln_leaky_relu" and key[1] in widths
    }
    for key, figures in compiled.items():
        if key in told:
            assert told[key] == "{}, {}, {}".format(*figures)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_most_that_is_spilled_is_said(dtype: str) -> None:
    with (ROOT / "benchmarks" / "results" / "kernels-compiled.csv").open(newline="") as file:
        most = max(int(row["spills"]) for row in csv.DictReader(file) if row["dtype"] == dtype)
    assert f"{most} bytes" in PAGE
