"""``linzoo inspect``: what it prints, how it exits, and what it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes import unet_shapes, write_sparse

from linzoo.cli.main import main

COST = """
import json, resource, sys, time
from click.testing import CliRunner
from linzoo.cli.main import main
import linzoo.checkpoints.detection, rich.console, rich.table
from linzoo.registry import build_registry

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB

build_registry()
before, start = peak(), time.perf_counter()
result = CliRunner().invoke(main, ["inspect", sys.argv[1], "--json"])
took = time.perf_counter() - start
heavy = [name for name in ("torch", "diffusers", "transformers", "huggingface_hub", "safetensors") if name in sys.modules]
print(json.dumps({"output": json.loads(result.stdout), "seconds": took, "grown": peak() - before, "heavy": heavy}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect")
    for name in ("sd15", "sd21", "sdxl-refiner"):
        write_sparse(path / f"{name}.safetensors", unet_shapes(name, "ldm"))
    write_sparse(path / "foo.safetensors", {"foo": (2,)})
    with (path / "sd15.safetensors").open("rb") as file:
        (path / "damaged.safetensors").write_bytes(file.read(5000))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def test_a_decided_file(folder: Path) -> None:
    result = run(folder / "sd15.safetensors")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for part in ("is Stable Diffusion 1.x", "variant sd15", "prediction type epsilon", "confidence medium",
                 "native size 512 px", "859,520,964 parameters", "686 of 686 tensors of sd15", "assumed: published"):  # fmt: skip
        assert part in text


def test_on_a_terminal_every_line_fits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    main(["inspect", "sd15.safetensors"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    start = lines.index("  prediction type: epsilon (from default, confidence medium)")
    assert lines[start + 1 :] == [
        "    assumed: published sd15 models predict epsilon; a file trained otherwise and",
        "    without a marker looks the same",
    ]


def test_json(folder: Path) -> None:
    result = run(folder / "sd15.safetensors", "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (data["schema"], data["kind"], data["variant"], data["prediction_type"]) == (
        1,
        "unet",
        "sd15",
        "epsilon",
    )
    assert [each["about"] for each in data["evidence"]] == ["kind", "variant", "prediction_type"]


def test_undecided_exits_with_3_and_names_the_flag(folder: Path) -> None:
    result = run(folder / "sd21.safetensors", "--json")
    assert result.exit_code == 3
    data = json.loads(result.stdout)
    assert (data["variant"], data["prediction_type"], data["confidence"]) == ("sd21", None, "none")
    assert "settle it with --prediction-type epsilon or --prediction-type v_prediction" in result.stderr
    settled = run(folder / "sd21.safetensors", "--prediction-type", "v_prediction", "--json")
    assert settled.exit_code == 0
    assert json.loads(settled.stdout)["native_size"] == 768


def test_unknown_exits_with_3_and_what_is_known_but_not_converted_with_0(folder: Path) -> None:
    assert run(folder / "foo.safetensors").exit_code == 3
    known = run(folder / "sdxl-refiner.safetensors")
    assert known.exit_code == 0
    assert "SDXL refiner" in known.stdout


def test_damage_exits_with_1_and_wrong_usage_with_2(folder: Path) -> None:
    damaged = run(folder / "damaged.safetensors")
    assert (damaged.exit_code, damaged.stdout) == (1, "")
    assert "truncated inside the header" in damaged.stderr
    assert run(folder / "absent.safetensors").exit_code == 1
    assert run(folder / "sd15.safetensors", "--variant", "sdxl").exit_code == 1
    assert run(folder / "sd15.safetensors", "--prediction-type", "noise").exit_code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the resource module is not there")
def test_7_gb_cost_half_a_second_and_no_memory(tmp_path: Path) -> None:
    shapes = unet_shapes("sdxl", "ldm")
    for layer in range(32):
        place = f"conditioner.embedders.1.model.transformer.resblocks.{layer}"
        shapes[f"{place}.mlp.c_fc.weight"] = (5120, 1280 * 5)
    path = write_sparse(tmp_path / "xl.safetensors", shapes)
    assert path.stat().st_size > 7e9
    done = subprocess.run([sys.executable, "-c", COST, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert cost["output"]["variant"] == "sdxl"
    assert cost["heavy"] == []
    assert cost["seconds"] < 0.5
    assert cost["grown"] < 16
