"""On which machines benchmarks run, and what rows say about them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from linzoo_benchmarks import kernels
from linzoo_benchmarks.environment import describe, free_bytes
from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.layers import FORMS
from linzoo_benchmarks.peers import FbiLa, Fla
from linzoo_benchmarks.providers import Eager
from linzoo_benchmarks.rows import RowFile, read_rows
from linzoo_benchmarks.session import Session
from linzoo_benchmarks.shapes import Shape
from made_up import row

from linzoo.errors import UsageError

CPU = torch.device("cpu")


def test_kernels_need_no_diffusers() -> None:
    code = (
        "import sys, linzoo_benchmarks.kernels, linzoo_benchmarks.layer, linzoo_benchmarks.report, linzoo_benchmarks.plot\n"
        "print(*{'diffusers', 'transformers', 'numpy.testing', 'matplotlib', 'triton'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() in ([], ["triton"])


def test_layers_of_diffusers_are_left_out_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    missing = {form.name: form.missing() for form in FORMS}
    assert {name for name, reason in missing.items() if reason is None} == {
        "official", "folded-merged", "folded-value-free",
    }  # fmt: skip
    assert missing["softmax"] == "diffusers is not installed"


def test_peers_say_what_they_lack() -> None:
    gpu = torch.device("cuda")
    for peer in (FbiLa(from_layer=True), FbiLa(from_layer=False), Fla()):
        assert peer.missing(CPU) == "needs a GPU"
        assert "is not installed" in str(peer.missing(gpu))
    shape = Shape("wide", 1, 64, 2, 80)
    assert "head_dim 32 and 64 only" in str(FbiLa(from_layer=True).unfit(shape, torch.bfloat16))


def test_rows_name_the_commit_that_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINZOO_COMMIT", "1234abc")
    found = describe(CPU)
    assert found.commit == "1234abc"
    assert "thread" in found.device
    assert found.torch == torch.__version__
    assert found.timestamp.endswith("+00:00")


def test_what_does_not_fit_has_a_row_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linzoo_benchmarks.session.free_bytes", lambda _: 10**8)
    shape = Shape("large", 1, 65536, 2, 16)
    with pytest.raises(BenchmarkError, match=r"Nothing was measured:\n  torch, large: needs about 0.3 GB"):
        kernels.run(
            [shape], device=CPU, dtype=torch.float32, out=tmp_path / "rows.csv", say=lambda _: None,
            providers=kernels.PROVIDERS[1:2], modes=["forward", "graph"],
        )  # fmt: skip
    assert [(row.mode, row.median, row.note) for row in read_rows([tmp_path / "rows.csv"])] == [
        ("forward", None, "needs about 0.3 GB, 0.1 GB free")
    ]
    assert free_bytes(CPU) > 10**6


def test_terabytes_are_told_as_such(tmp_path: Path) -> None:
    session = Session("layer", CPU, torch.float32, tmp_path / "rows.csv", lambda _: None)
    reason = session.lacks_memory(3, Shape("vast", 1, 10**12, 1, 1))
    assert str(reason).startswith("needs about 12 TB, ")


def test_rows_of_another_benchmark_are_left_alone(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    file.append(row("triton", (1, 64, 2, 16), 1.0))
    before = file.path.read_bytes()
    with pytest.raises(UsageError, match=r"rows\.csv holds rows of `linzoo bench kernels`"):
        Session("layer", CPU, torch.float32, file.path, lambda _: None)
    assert file.path.read_bytes() == before


def test_one_that_breaks_does_not_stop_the_others(tmp_path: Path) -> None:
    session = Session("layer", CPU, torch.float32, tmp_path / "rows.csv", lambda _: None)
    shape = Shape("tiny", 1, 8, 1, 16)
    with session.guarded(shape, "greedy", "linear", "forward"):
        raise torch.OutOfMemoryError("2 TB")
    with session.guarded(shape, "broken", "linear", "forward"):
        raise ZeroDivisionError("0")
    assert [(row.provider, row.note) for row in session.rows] == [("greedy", "out of memory")]
    assert session.red == ["broken, forward, tiny: it failed: ZeroDivisionError('0')"]


def test_it_is_said_how_far_a_run_is_and_what_compiles(tmp_path: Path) -> None:
    class Quick(Eager):
        compiles = True

    said: list[str] = []
    kernels.run(
        [Shape("tiny", 1, 8, 1, 16)], device=CPU, dtype=torch.float32, out=tmp_path / "rows.csv", say=said.append,
        providers=[Quick()], modes=["forward", "backward"],
    )  # fmt: skip
    assert [
        line.removeprefix("tiny  ") for line in said if line.startswith("tiny") and " ms" not in line
    ] == [
        "forward: 1 of 2",
        "float32 probe  eager: compiling",
        "forward  eager: compiling",
        "backward: 2 of 2",
        "backward  eager: compiling",
    ]


@pytest.mark.gpu
def test_a_gpu_times_every_mode_and_graphs_too(tmp_path: Path) -> None:
    rows = kernels.run(
        [Shape("small", 2, 1000, 5, 64)], device=torch.device("cuda"), dtype=torch.bfloat16,
        out=tmp_path / "rows.csv", say=lambda _: None, providers=[kernels.PROVIDERS[0], kernels.PROVIDERS[3]],
    )  # fmt: skip
    assert {(row.provider, row.mode) for row in rows} == {
        (provider, mode) for provider in ("triton", "eager") for mode in kernels.MODES
    }
    for each in rows:
        assert each.median is not None
        assert 1e-3 < each.median < 100
        assert each.error is not None
        assert each.copy_gbps is not None
        assert each.copy_gbps > 100
        assert each.mode == "graph" or (each.peak_mb is not None and each.peak_mb > 1)
