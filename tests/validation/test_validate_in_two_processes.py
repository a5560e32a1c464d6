"""Two processes over gloo validate together: what they come to is what one comes to, and each picture is drawn once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sabotage import copy_of, put, rewrite
from test_validate_run import quality
from tiny import SD_SITES
from validating import BUILT_IN, ENCODERS, registry_with, reported

from linzoo.registry import Registry

pytestmark = pytest.mark.slow

_CHECKS = {"draws": {"run": "draws", "suites": ("quality",)}, "z-raises": {"run": "raises"}}
_COUNT = 50  # four files of pictures: two for each process

_SCRIPT = """
import json, os, sys
from pathlib import Path
sys.path[:0] = json.loads(sys.argv[1])
import torch, validating
import pytest
from linzoo import LinzooError, validate

pipes = validating.watch_pipelines(pytest.MonkeyPatch())
checkpoint, folder, options = Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
own = folder.with_name(f"own-{os.environ['RANK']}")
own.mkdir(exist_ok=True)
registry = validating.registry_with(own, options.pop("checks"), validating.BUILT_IN)
try:
    result = validate(checkpoint, "tiny", registry=registry, report=folder, device="cpu", **options)
    told = {each.measure.name: each.measure.value for each in result.judged}
except LinzooError as error:
    told = str(error)
print(json.dumps([told, pipes[0].asked if pipes else []]))
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def launch(checkpoint: Path, folder: Path, **options: Any) -> list[Any]:
    """What the processes say: values by name, or an error, and the prompts that each drew."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
    }
    asked = {"suite": "quality", "images": _COUNT, "steps": 1, "encoders": ENCODERS, "checks": _CHECKS}
    arguments = [json.dumps(sys.path), str(checkpoint), str(folder), json.dumps(asked | options)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = []
    for process in processes:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        told.append(json.loads(output.splitlines()[-1]))
    return told


def test_two_processes_come_to_what_one_comes_to(zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    registry = registry_with(tmp_path, _CHECKS, BUILT_IN)
    quality(registry, linfusion, tmp_path / "one", images=_COUNT, steps=1)
    one = {each["name"]: each["value"] for each in reported(tmp_path / "one")["measures"]}
    (first, firsts), (second, seconds) = launch(linfusion, tmp_path / "two")
    assert [name for name, value in first.items() if value != second[name] and value == value] == []
    two = {each["name"]: each["value"] for each in reported(tmp_path / "two")["measures"]}
    assert list(two) == list(one)
    for name, value in one.items():
        assert two[name] == (value if value is None else pytest.approx(value, rel=1e-6, abs=1e-9)), name
    assert len(firsts) == 2 * (16 + 16) + 1  # and the plugin's one
    assert len(seconds) == 2 * (16 + 2)
    assert not set(firsts) & set(seconds)
    assert all(seconds.count(prompt) == 2 for prompt in seconds)


def test_two_go_on_where_one_was_stopped(zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    registry = registry_with(tmp_path, {}, BUILT_IN)
    quality(registry, linfusion, tmp_path / "report", images=_COUNT, steps=1)
    for path in (tmp_path / "report" / "pictures").glob("*/items-000016.safetensors"):
        path.unlink()
    (_, firsts), (_, seconds) = launch(linfusion, tmp_path / "report", checks={})
    assert (len(firsts), len(seconds)) == (2 * 16, 0)


def test_a_gate_that_falls_stops_both(zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    spoiled = copy_of(linfusion, tmp_path / "spoiled")
    rewrite(spoiled, put("2.to_v.weight", float("nan")))
    (first, firsts), (second, seconds) = launch(spoiled, tmp_path / "report")
    assert first == second
    assert first["not-finite"] == 1
    assert first["kd"] is None
    assert firsts == seconds == []
    assert reported(tmp_path / "report")["checkpoint"]["modules"] == SD_SITES


def test_an_error_of_the_first_ends_both(zoo: Registry, linfusion: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (first, _), (second, _) = launch(linfusion, tmp_path / "file")
    assert first.startswith(f"cannot write {tmp_path / 'file'}")
    assert second == "the main process failed; its own message says why"
