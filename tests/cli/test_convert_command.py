"""``linzoo convert`` on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from linzoo.cli.common import State
from linzoo.cli.main import main
from tests.init.toys import contents, toy_registry, toy_unet, write_ldm


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_ldm(tmp_path / "model.safetensors", toy_unet())


def run(*arguments: object) -> Result:
    state = State()
    state.__dict__["registry"] = toy_registry()
    return CliRunner().invoke(main, ["convert", *map(str, arguments)], obj=state)


def test_says_what_it_wrote(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"Wrote {tmp_path / 'out'}: 7 modules, 119 tensors" in result.stdout
    assert "variant toy (epsilon), plan toy-full (0 modules stay softmax), init teacher" in result.stdout
    assert (tmp_path / "out" / "linzoo.lock.json").is_file()
    assert "note: prediction type epsilon: assumed: published toy models predict epsilon" in result.stderr


def test_quiet_says_nothing(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_dry_run_prints_every_tensor_and_what_is_needed(source: Path, tmp_path: Path) -> None:
    before = contents(tmp_path)
    result = run(source, tmp_path / "out", "--dry-run", "--plan", "toy-narrow")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert (
        "copied       teacher:model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
        "  ->  6.to_q.weight  F16 64x64" in lines
    )
    assert "initialised  uniform ±1/sqrt(32)  ->  0.to_q_.0.weight  F16 4x32" in lines
    assert sum("  ->  " in line for line in lines) == 119
    assert any(line.startswith("  memory: at most ") and " needed, " in line for line in lines)
    assert contents(tmp_path) == before


def test_json(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", "--json", "--dry-run")
    document = json.loads(result.stdout)
    assert (document["schema"], document["written"], document["confidence"]) == (1, False, "medium")
    assert (document["variant"], document["prediction_type"], document["init"]) == (
        "toy",
        "epsilon",
        "teacher",
    )
    assert document["bytes"] < document["disk_needed"] < document["disk_free"]
    assert document["memory_bound"] > 64 * 64 * 4
    assert len(document["tensors"]) == 119
    assert document["tensors"][0]["sources"][0].startswith("teacher:model.diffusion_model.")
    assert json.loads(run(source, tmp_path / "out", "--json").stdout)["written"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--init", "pretrained"), 2, "needs --from"),
        (("--init", "nonsense"), 1, "unknown init recipe 'nonsense'"),
        (("--dtype", "float64"), 2, "Invalid value for '--dtype'"),
        (("--seed", "-1"), 2, "Invalid value for '--seed'"),
        (("--variant", "toy-either"), 1, "not the 'toy-either' that --variant says"),
    ],
)
def test_errors_are_one_block_on_stderr(
    source: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run(source, tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_undecided_is_exit_code_3(tmp_path: Path) -> None:
    source = write_ldm(tmp_path / "model.safetensors", toy_unet("toy-either"), "toy-either")
    result = run(source, tmp_path / "out")
    assert result.exit_code == 3
    assert "--prediction-type" in result.stderr
    assert run(source, tmp_path / "out", "--prediction-type", "v_prediction").exit_code == 0


def test_delta_prints_what_it_measured(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "linear").exit_code == 0
    result = run(source, tmp_path / "out", "--init", "delta", "--from", tmp_path / "linear", "--base", source)
    assert result.exit_code == 0, result.output
    assert "  basis correlation: 1.0" in result.stdout


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from linzoo.cli.main import main;"
        "r = CliRunner().invoke(main, ['convert', '--help']); assert r.exit_code == 0, r.output;"
        "assert 'Examples:' in r.output;"
        "print({'torch', 'numpy', 'diffusers', 'linzoo.registry'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
