"""A conversion as a process of its own: what it imports, how much memory it takes, and what a kill leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from linzoo_benchmarks.convert import measure, programs, write_checkpoint

from linzoo.checkpoints.components import component_config
from linzoo.init.convert import convert, execute
from linzoo.init.planning import plan_conversion
from linzoo.registry import build_registry
from tests.init.toys import contents, read_result, toy_config, toy_registry, toy_unet, write_ldm

MB = 1_000_000
REPOSITORY = Path(__file__).parents[2]

PROLOGUE = """
import os, signal, sys
from linzoo.init.convert import convert
from tests.init.toys import toy_registry
source, out = sys.argv[1:3]
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )


KILL_AT = [0, 3, 60, 118]


@pytest.mark.parametrize("tensors", KILL_AT)
def test_killed_halfway_nothing_looks_finished_and_a_second_run_completes(
    tmp_path: Path, tensors: int
) -> None:
    source = write_ldm(tmp_path / "model.safetensors", toy_unet())
    code = PROLOGUE + (
        f"left = [{tensors}]\n"
        "def kill(_):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "convert(source, out, registry=toy_registry(), progress=kill)\n"
    )
    killed = python(code, source, tmp_path / "out")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out").exists()
    for name in contents(tmp_path):
        assert name == "model.safetensors" or name.startswith(".out.linzoo-")
    assert not list(tmp_path.rglob("diffusion_pytorch_model.safetensors"))
    assert not list(tmp_path.rglob("linzoo.lock.json"))

    convert(source, tmp_path / "out", registry=toy_registry())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.safetensors", "out"]
    convert(source, tmp_path / "undisturbed", registry=toy_registry())
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_ctrl_c_cleans_up(tmp_path: Path) -> None:
    source = write_ldm(tmp_path / "model.safetensors", toy_unet())
    code = PROLOGUE + (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "def stop(_): os.kill(os.getpid(), signal.SIGINT)\n"
        "convert(source, out, registry=toy_registry(), progress=stop)\n"
    )
    stopped = python(code, source, tmp_path / "out")
    assert "KeyboardInterrupt" in stopped.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]


def test_300_mb_are_converted_in_little_memory(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model.safetensors", toy_config("toy-wide"), filler=100 * MB)
    assert 250 * MB < source.stat().st_size < 400 * MB
    done = measure([sys.executable, "-c", PROLOGUE + "convert(source, out, registry=toy_registry())",
                    str(source), str(tmp_path / "out")])  # fmt: skip
    assert done.anonymous < 120 * MB


def test_memory_stays_within_the_bound_that_a_dry_run_states(tmp_path: Path) -> None:
    import tracemalloc

    source = write_checkpoint(tmp_path / "model.safetensors", toy_config("toy-wide"))
    convert(source, tmp_path / "linear", registry=toy_registry())
    delta = {"init": "delta", "linfusion": tmp_path / "linear", "base": source}
    for options in ({"init": "teacher"}, {"init": "random", "dtype": "bfloat16"}, delta):
        plan = plan_conversion(source, registry=toy_registry(), **options)
        tracemalloc.start()
        execute(plan, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < plan.memory + 2 * MB, options
        shutil.rmtree(tmp_path / "out")


def test_a_conversion_imports_no_torch(tmp_path: Path) -> None:
    source = write_ldm(tmp_path / "model.safetensors", toy_unet())
    code = PROLOGUE + (
        "convert(source, out, registry=toy_registry())\n"
        "print({'torch', 'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules))\n"
    )
    assert python(code, source, tmp_path / "out").stdout.strip() == "set()"


@pytest.mark.slow
def test_sdxl_sized_file(tmp_path: Path) -> None:
    """The bars: under 400 MB of anonymous memory, and at most 1.5 times as long as copying the file."""
    variant = build_registry(entry_points=False).variants.get_value("sdxl")
    source = write_checkpoint(tmp_path / "sdxl.safetensors", component_config(variant, "unet"))
    assert source.stat().st_size > 5000 * MB
    commands = programs(source, tmp_path / "out")
    copied, converted = [], []
    for _ in range(2):
        copied.append(measure(commands["cp"]))
        (tmp_path / "out").unlink()
        converted.append(measure(commands["linzoo convert"]))
        if len(converted) < 2:
            shutil.rmtree(tmp_path / "out")
    assert max(run.anonymous for run in converted) < 400 * MB
    if len(os.sched_getaffinity(0)) > 1:  # on one core the SHA-256 of the file cannot run beside the rest
        assert min(run.seconds for run in converted) < 1.5 * min(run.seconds for run in copied)
    modules, tensors = read_result(tmp_path / "out")
    assert (len(modules), len(tensors)) == (70, 1190)
    assert sum(tensor.size for tensor in tensors.values()) == 435_480_800
