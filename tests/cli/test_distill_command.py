"""``linzoo distill``: what the command adds to ``linzoo.distill``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import linzoo
from linzoo.cli.distill import _card, _processes
from linzoo.cli.main import main
from linzoo.distillation.result import DistillResult

SETTINGS = [
    argument
    for setting in (
        "data.max_items=4", "data.held_out=2", "data.sampling.steps=2", "calibrate=null", "align.steps=2",
        "align.batch=2", "distill.steps=4", "distill.batch=2", "validation.samples=2", "validation.images=0",
        "saving.every=3",
    )
    for argument in ("--set", setting)
]  # fmt: skip
MEASURES = {"kd": 0.25, "guided": {"1.0": 0.25, "7.5": 2.0}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "mini-linfusion"
    linzoo.convert("mini", folder)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``linzoo.distill`` is called with by the command, instead of doing it."""
    arguments: dict[str, Any] = {}

    def distill(checkpoint: str, **given: Any) -> DistillResult:
        arguments.update(given, checkpoint=checkpoint)
        out = given["out"]
        return DistillResult(out, out / "linfusion", 6, MEASURES, {"step": 3, "kd": 0.2})

    monkeypatch.setattr("linzoo.distillation.run.distill", distill)
    return arguments


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["distill", *arguments])


def test_options_reach_the_function(asked: dict[str, Any]) -> None:
    done = invoke(
        "mini-linfusion", "--teacher", "mini", "--recipe", "mini", "--preset", "24gb", "--set", "seed=1", "--set", "seed=2",
        "--resume", "12", "--device", "cpu", "--out", "run",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert asked["checkpoint"] == "mini-linfusion"
    assert asked["overrides"] == ("seed=1", "seed=2")
    assert (asked["recipe"], asked["preset"], asked["resume"]) == ("mini", "24gb", 12)
    assert (asked["out"], asked["device"]) == (Path("run"), "cpu")


def test_the_result_is_told(asked: dict[str, Any]) -> None:
    done = invoke("folder/ck", "--teacher", "mini", "--resume", "latest")
    assert asked["out"] == Path("ck-distilled")
    assert asked["resume"] == "latest"
    assert done.stdout.splitlines() == [
        "ck-distilled/linfusion",
        "  KD 0.25 after 6 steps; guided KD by scale  1.0: 0.25  7.5: 2",
        "  lowest KD 0.2 after step 3: ck-distilled/best",
    ]


def test_a_checkpoint_here_has_a_name_too(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke(".", "--teacher", "mini")
    assert asked["out"] == Path(f"{tmp_path.name}-distilled")


def test_json(asked: dict[str, Any]) -> None:
    document = json.loads(invoke("mini-linfusion", "--teacher", "mini", "--json").stdout)
    assert document["schema"] == 1
    assert document["measures"] == MEASURES
    assert document["best"] == {"step": 3, "kd": 0.2}


def test_other_processes_are_silent(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert invoke("mini-linfusion", "--teacher", "mini").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"), [([], "--teacher"), (["--teacher", "mini", "--resume", "soon"], "'soon'")]
)
def test_wrong_usage(arguments: Sequence[str], says: str) -> None:
    done = invoke("mini-linfusion", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr


def test_what_does_not_fit_exits_with_a_message(checkpoint: Path, tmp_path: Path) -> None:
    done = invoke(str(checkpoint), "--teacher", "mini", "--recipe", "sd15", "--out", str(tmp_path / "run"))
    assert done.exit_code == 1
    assert "recipe 'sd15' is for sd15, and mini is mini" in done.stderr


@pytest.mark.parametrize(
    ("preset", "card", "processes"), [("24gb", 24.0, 1), ("8x80gb", 80.0, 8), ("", None, 1)]
)
def test_presets_are_named_after_cards(
    preset: str, card: float | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (_card(preset), _processes(preset)) == (card, processes)


@pytest.mark.slow  # adds up memory on the meta device and times steps
def test_a_dry_run_writes_nothing_and_tells_memory_disk_and_time(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [
        str(checkpoint),
        "--teacher",
        "mini",
        "--out",
        str(out),
        "--device",
        "cpu",
        "--dry-run",
        *SETTINGS,
    ]
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    assert not out.exists()
    for words in ("recipe mini (align, distill; 6 steps)", "memory of distill", "disk:", "of disk are free"):
        assert words in done.stdout
    assert re.search(r"^data: \S+ s a drawing on this machine", done.stdout, re.MULTILINE)
    assert re.search(r"^align: \S+ s a step on this machine", done.stdout, re.MULTILINE)
    document = json.loads(invoke(*arguments, "--json").stdout)
    assert document["schema"] == 1
    assert [timing["stage"] for timing in document["timings"]] == ["data", "align", "distill"]
    times = [timing["total"] / timing["step"] for timing in document["timings"]]
    assert times == pytest.approx([4, 2, 4])  # drawings and steps, as SETTINGS says
    assert document["memory_bytes"] > 0


@pytest.mark.slow  # adds up memory on the meta device
def test_a_dry_run_where_a_step_does_not_fit_tells_all_but_the_time(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr("linzoo.distillation.rehearsal.rehearse", fail)
    done = invoke(
        str(checkpoint), "--teacher", "mini", "--out", str(tmp_path / "run"), "--dry-run", *SETTINGS
    )
    assert done.exit_code == 0, done.output
    assert "memory of distill" in done.stdout
    assert re.search(r"\d MB  the result and the best so far", done.stdout)
    assert done.stderr == "no time is told: a step runs out of memory on this machine\n"


def command(checkpoint: Path, cache: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "linzoo", "distill", str(checkpoint), "--teacher", "mini", "--device", "cpu",
        "--cache", str(cache), "--out", str(out), *SETTINGS, *more,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_stopped_is_gone_on_with_bit_for_bit(
    checkpoint: Path, cache: Path, tmp_path: Path, number: signal.Signals
) -> None:
    straight, out = tmp_path / "straight", tmp_path / "run"
    subprocess.run(command(checkpoint, cache, straight), check=True, capture_output=True)
    plugin = tmp_path / "stop.py"
    plugin.write_text(
        "import os\nfrom linzoo.plugin import hookimpl\n\n@hookimpl\ndef linzoo_distill_callbacks(run):\n"
        f"    yield lambda step: step.step == 5 and os.kill(os.getpid(), {int(number)})\n"
    )
    stopped = subprocess.run(
        command(checkpoint, cache, out, "--plugin", str(plugin)), capture_output=True, text=True
    )
    if number == signal.SIGKILL:
        assert stopped.returncode == -signal.SIGKILL
    else:
        assert stopped.returncode == 1
        assert "stopped by SIGTERM after step 5, which is saved" in stopped.stderr
    subprocess.run(command(checkpoint, cache, out, "--resume", "latest"), check=True, capture_output=True)
    for name in ("config.json", "diffusion_pytorch_model.safetensors", "linzoo.lock.json"):
        assert (out / "linfusion" / name).read_bytes() == (straight / "linfusion" / name).read_bytes(), name
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_accelerate_launches_it_in_two_processes(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    """The first one calibrates, and the other has the weights of it."""
    one, two = tmp_path / "one", tmp_path / "two"
    calibrate = ("--set", "calibrate={samples: 2, timesteps: 1, sharpness: [4], shift: [], ridge: []}")
    subprocess.run(command(checkpoint, cache, one, *calibrate), check=True, capture_output=True)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    done = subprocess.run(
        launch + command(checkpoint, cache, two, *calibrate)[1:],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 2, done.stdout
    assert done.stderr.count("align: 0/2\n") == 1

    def losses(folder: Path) -> list[float]:
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [record["loss"] for record in records if record["kind"] == "step"]

    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
