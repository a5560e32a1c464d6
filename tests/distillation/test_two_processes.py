"""Two processes over gloo take the steps that one takes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from toy import ToyRun, toy_recipe

from linzoo.distillation.log import MetricsLog

pytestmark = pytest.mark.slow

_SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from toy import ToyRun
from linzoo.distillation import processes
from linzoo.distillation.log import MetricsLog

processes._BUCKET = 70  # numbers: several buckets, and parameters that fill one alone
folder = Path(sys.argv[2])
poisoned = len(sys.argv) > 3
run = ToyRun(folder)
assert run.processes.count == 2
assert run.processes.gather(run.processes.rank) == [0, 1]
assert run.processes.in_main(lambda: run.processes.rank) == 0
try:
    run.processes.in_main(lambda: 1 / 0)
except Exception as error:
    expected = "division by zero", "the main process failed; its own message says why"
    assert str(error) == expected[run.processes.rank], error
else:
    raise AssertionError("no error")
assert run.processes.any(run.processes.rank == 1)
copied = torch.full((3,), float(run.processes.rank))
run.processes.copy_from_main([copied])
assert copied.tolist() == [0.0] * 3
if run.processes.main:
    run.loop.metrics = MetricsLog(folder / "metrics.jsonl", run.saved.record["metrics_bytes"] if run.saved else 0)
elif poisoned:
    run.objectives["align"].poison = 2  # in one process alone
run.run()
torch.distributed.destroy_process_group()
"""


def curve(folder: Path) -> list[dict[str, float]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "step"]


def launch(folder: Path, *arguments: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "1",
    }
    command = [sys.executable, "-c", _SCRIPT, str(Path(__file__).parent), str(folder), *arguments]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors


def one(folder: Path) -> dict[str, torch.Tensor]:
    folder.mkdir()
    run = ToyRun(folder)
    with closing(MetricsLog(folder / "metrics.jsonl")) as metrics:
        run.loop.metrics = metrics
        return run.run()


def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    weights = one(tmp_path / "one")
    (tmp_path / "two").mkdir()
    launch(tmp_path / "two")
    straight, shared = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [record["step"] for record in shared] == list(range(1, 21))
    for name in ("loss", "kd", "grad_norm", "lr_new"):
        assert [record[name] for record in shared] == pytest.approx(
            [record[name] for record in straight], rel=1e-5
        )
    saved = ToyRun(tmp_path / "two").saved
    assert saved is not None
    files = saved.tensors()
    for name, value in files["weights"].items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(files["ema"][name], weights[f"ema {name}"], rtol=1e-4, atol=1e-6)


def test_a_step_that_fails_in_one_process_is_skipped_in_both(tmp_path: Path) -> None:
    launch(tmp_path, "poisoned")
    records = curve(tmp_path)
    assert [record["step"] for record in records if record["skipped"]] == [3]
    assert records[2]["loss"] is None
    assert len(records) == 20


def test_two_processes_go_on_where_one_was_killed(tmp_path: Path) -> None:
    weights = one(tmp_path / "one")
    folder = tmp_path / "two"
    folder.mkdir()
    recipe = toy_recipe()
    run = ToyRun(folder, recipe)
    with closing(MetricsLog(folder / "metrics.jsonl")) as metrics:
        run.loop.metrics = metrics
        run.run("align")
    launch(folder)
    assert [record["step"] for record in curve(folder)] == list(range(1, 21))
    saved = ToyRun(folder).saved
    assert saved is not None
    for name, value in saved.tensors()["weights"].items():
        torch.testing.assert_close(value, weights[name], rtol=1e-4, atol=1e-6)
