"""Models that are nowhere, and folders that are none, are refused before anything is imported that takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from linzoo.cli.main import main

RUN = """
import json, sys
from click.testing import CliRunner
from linzoo.cli.main import main

result = CliRunner().invoke(main, json.loads(sys.argv[1]))
print(json.dumps([result.exit_code, result.output, sorted({"torch", "diffusers"} & set(sys.modules))]))
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["convert", "nowhere", "out"], "nowhere"),
        (["distill", "mini-linfusion", "--teacher", "nowhere"], "nowhere"),
        (["convert", "models/no.safetensors", "out"], "models/no.safetensors"),
        (["inspect", "me/models/v1.safetensors"], "me/models/v1.safetensors"),
        (["generate", "nowhere", "a cat"], "nowhere"),
        (["generate", "mini", "a cat", "--linfusion", "nowhere"], "nowhere"),
        (["inspect", "./user/model"], "./user/model"),
        (["push", "nowhere", "user/model"], "nowhere"),
        (["push", "mini-linfusion", "user/model", "--teacher", "no.safetensors"], "no.safetensors"),
        (["validate", "mini-linfusion", "--teacher", "nowhere"], "nowhere"),
        (["verify", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_model_that_is_nowhere_is_refused_at_once(command: list[str], name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(command)], capture_output=True, text=True, check=True
    )
    code, output, imported = json.loads(done.stdout)
    assert (code, imported) == (1, [])
    assert output.startswith(f"error: {name}: no such file or folder, and no registered name")
    assert (
        "write hf://me/models/v1.safetensors" if name.startswith("me/") else "is written hf://user/repo"
    ) in output


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "mini", "hf://me/out"],
        ["distill", "mini-linfusion", "--teacher", "mini", "--out", "https://huggingface.co/me/out"],
        ["validate", "mini-linfusion", "--teacher", "mini", "--report", "hf://me/report"],
        ["generate", "mini", "a cat", "--out", "hf://me/cat.png"],
    ],
    ids=lambda command: command[0],
)
def test_what_is_written_is_written_on_this_machine(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert f"{command[-1]}: a path on this machine is meant; 'linzoo push' publishes" in result.output
    assert list(tmp_path.iterdir()) == []
