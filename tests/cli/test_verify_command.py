"""``linzoo verify`` on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from linzoo.checkpoints.source import open_source
from linzoo.cli.main import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "mini-copy"
    shutil.copytree(open_source("mini-linfusion").path, folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_a_whole_checkpoint(checkpoint: Path) -> None:
    result = run(checkpoint, "--teacher", "mini")
    assert result.exit_code == 0, result.output
    head, *rows, last = result.stdout.splitlines()
    assert head.split() == ["VERDICT", "WHAT", "FOUND"]
    assert [row.split()[0] for row in rows] == ["same"] * 8 + ["unchecked"] * 2
    assert rows[1].split() == ["same", "diffusion_pytorch_model.safetensors", "c5f966abe85f…"]
    assert last == f"{checkpoint}: as its lock file says"


def test_one_that_changed_exits_with_1_and_names_what(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "more.safetensors").write_bytes(b"")
    result = run(checkpoint)
    assert result.exit_code == 1
    last = result.stdout.splitlines()[-1]
    assert last == f"{checkpoint}: not what its lock file says: config.json, more.safetensors"


def test_json(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    result = run(checkpoint, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (document["schema"], document["verdict"]) == (1, "differs")
    assert document["counts"] == {"same": 7, "differs": 0, "missing": 1, "extra": 0, "unchecked": 2}


def test_nothing_to_hold_it_against_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no linzoo.lock.json" in result.stderr
