"""``linzoo bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from linzoo_benchmarks import kernels as benchmark
from linzoo_benchmarks.layers import FORMS
from linzoo_benchmarks.rows import Row, RowFile, read_rows
from linzoo_kernels import dispatch

import linzoo.cli.bench as commands
from linzoo.cli.main import main


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("bench") / "kernels.csv"
    providers = ("torch", "eager", "sdpa-flash", "triton", "fla")
    chosen = [word for provider in providers for word in ("--provider", provider)]
    return bench("kernels", "--shape", "2x48x2x16", *chosen, "--out", out), out


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    out = tmp_path_factory.mktemp("bench") / "layer.csv"
    return bench("layer", "--shape", "1x64x2x16", "--shape", "1x128x2x16", "--out", out), out


def test_kernels_times_everyone_in_every_mode(kernels: tuple[Result, Path]) -> None:
    result, out = kernels
    assert result.exit_code == 0, result.output
    rows = read_rows([out])
    assert {(row.provider, row.mode) for row in rows} == {
        (provider, mode)
        for provider in ("torch", "eager", "sdpa-flash")
        for mode in ("forward", "backward", "forward+backward")
    }
    for row in rows:
        assert row.median is not None
        assert row.q20 is not None
        assert row.q80 is not None
        assert 0 < row.q20 <= row.median <= row.q80
        assert row.peak_mb is not None
        assert row.peak_mb > 0
        assert row.commit
        assert row.torch
        assert row.copy_gbps
        assert row.gemm_tflops


def test_kernels_says_how_exact_and_how_near_the_copy(kernels: tuple[Result, Path]) -> None:
    for row in read_rows([kernels[1]]):
        if row.function == "softmax":
            assert (row.error, row.gbps, row.note) == (None, None, "another function")
            continue
        assert row.error is not None
        assert row.error < 2e-6
        assert row.median is not None
        assert row.copy_gbps is not None
        units = {"forward": 4, "backward": 7, "forward+backward": 11}[row.mode]
        assert row.gbps == pytest.approx(units * 2 * 48 * 32 * 4 / row.median / 1e6, rel=1e-3)
        assert row.copy_fraction == pytest.approx(row.gbps / row.copy_gbps, rel=1e-3)


def test_kernels_prints_a_row_a_line_and_says_who_is_missing(kernels: tuple[Result, Path]) -> None:
    result, out = kernels
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["shape", "B"]
    assert len(lines) == 1 + len(read_rows([out]))
    assert "triton is left out: needs a GPU" in result.stderr
    assert "fla is left out: needs a GPU" in result.stderr


def test_kernels_says_the_same_as_json(kernels: tuple[Result, Path]) -> None:
    _, out = kernels
    result = bench("report", out, "--json")
    found = json.loads(result.stdout)
    assert found["schema"] == 1
    assert [Row(**each) for each in found["rows"]] == read_rows([out])
    assert (found["crossings"], found["bars"]) == ([], [])


def test_bars_and_crossings_are_in_the_json(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "layer.csv")
    for provider, median in (("folded", 1.0), ("softmax", 2.0)):
        file.append(
            Row(
                "layer",
                provider,
                "linear",
                "forward",
                "xl",
                2,
                4096,
                10,
                64,
                "bfloat16",
                median,
                device="NVIDIA H200",
            )
        )
    found = json.loads(bench("report", file.path, "--json").stdout)
    assert [each["folded is faster than softmax"] for each in found["crossings"]] == [
        "from 4,096 tokens or fewer"
    ]
    assert [(each["limit"], each["worst"], each["met"]) for each in found["bars"] if each["worst"]] == [
        (1.0, 2.0, True)
    ]


def test_layer_times_all_forms_with_memory_and_traffic(layer: tuple[Result, Path]) -> None:
    result, out = layer
    assert result.exit_code == 0, result.output
    rows = {(row.provider, row.tokens): row for row in read_rows([out])}
    forms = {"official", "mounted", "folded", "folded-merged", "folded-value-free", "softmax"}
    assert rows.keys() == {(form, tokens) for form in forms for tokens in (64, 128)}
    for row in rows.values():
        assert row.median is not None
        assert row.peak_mb is not None
        assert row.error is None if row.provider == "softmax" else row.error is not None and row.error < 1e-5
    assert _launches(rows["folded-merged", 128]) < _launches(rows["official", 128])
    assert "folded is faster than softmax" in result.stdout


def _launches(row: Row) -> int:
    assert row.launches
    assert row.units
    return row.launches


def test_report_reads_it_all_again_and_draws(layer: tuple[Result, Path], tmp_path: Path) -> None:
    first, out = layer
    result = bench("report", out, "--plot", tmp_path / "layer.png")
    assert result.exit_code == 0, result.output
    assert result.stdout == first.stdout
    assert (tmp_path / "layer.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["kernels", "--shape", "sd3-*"], "No shape is called 'sd3-*'", 2),
        (["kernels", "--provider", "cutlass"], "'cutlass' is not one of 'triton', 'torch',", 2),
        (["kernels", "--mode", "inference"], "not one of 'forward', 'graph', 'backward'", 2),
        (["layer", "--form", "fused"], "not one of 'official', 'mounted', 'folded'", 2),
        (["kernels", "--provider", "triton"], "Nothing was measured: triton is left out: needs a GPU", 1),
        (["kernels", "--mode", "graph"], "Nothing was measured: mode graph needs a GPU", 1),
        (["report", "{notes}"], "no column 'kernel'", 1),
        (["report", "{notes}", "--plot", "layer.csv"], "a name that ends with .png", 2),
        (["kernels", "--shape", "1x8x1x16", "--out", "{notes}"], "holds other columns", 1),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], message: str, code: int
) -> None:
    notes = tmp_path / "notes.csv"
    notes.write_text("my,notes\n1,2\n")
    result = bench(*(each.format(notes=notes) for each in arguments))
    assert result.exit_code == code
    assert message in result.stderr
    assert notes.read_text() == "my,notes\n1,2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.csv"]


@pytest.mark.parametrize(
    ("backend", "message"),
    [("nonsense", "no backend 'nonsense'"), ("triton", "cannot run this: there is no GPU")],
)
def test_a_backend_that_is_not_there_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, message: str
) -> None:
    monkeypatch.setattr(dispatch, "device_obstacle", lambda *_: "there is no GPU")
    monkeypatch.setenv("LINZOO_KERNELS", backend)
    result = bench("layer", "--form", "mounted", "--shape", "1x8x1x16", "--out", tmp_path / "layer.csv")
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_shape_is_told_without_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from linzoo.cli.main import main\n"
        "assert CliRunner().invoke(main, ['bench', 'layer', '--shape', 'sd3-*']).exit_code == 2\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_options_name_all_that_there_is() -> None:
    assert tuple(each.name for each in benchmark.PROVIDERS) == commands.PROVIDERS
    assert commands.MODES == benchmark.MODES
    assert tuple(each.name for each in FORMS) == commands.FORMS


def test_rows_of_several_precisions_are_told_apart(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.csv")
    for dtype in ("float32", "float16"):
        file.append(
            Row("layer", "folded", "linear", "forward", "xl", 2, 4096, 10, 64, dtype, 1.0, peak_mb=1.26)
        )
    head, *lines = bench("report", file.path).stdout.splitlines()
    assert head.split()[:2] == ["dtype", "shape"]
    assert [line.split()[0] for line in lines] == ["float32", "float16"]
    assert [line.split()[-1] for line in lines] == ["1.3", "1.3"]


def test_a_plot_makes_its_folder(tmp_path: Path, layer: tuple[Result, Path]) -> None:
    result = bench("report", layer[1], "--plot", tmp_path / "new" / "folder" / "layer.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "new" / "folder" / "layer.png").exists()


def test_what_the_columns_of_layers_mean_is_said(layer: tuple[Result, Path]) -> None:
    assert layer[0].stdout.splitlines()[-1].startswith("C·s/token: bytes that")
    assert "1x128x2x16: 2 of 2" in layer[0].stderr


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from linzoo.cli.main import main\n"
        "for name in ([], ['kernels'], ['layer'], ['report'], ['convert']):\n"
        "    assert CliRunner().invoke(main, ['bench', *name, '--help']).exit_code == 0\n"
        "print('torch' in sys.modules, 'linzoo_benchmarks' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
