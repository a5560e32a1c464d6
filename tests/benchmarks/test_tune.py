"""Tuning takes what is faster and right, and its table is read where a device's own is looked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from linzoo_benchmarks import tune
from linzoo_benchmarks.timing import Task, Timing
from linzoo_kernels import configs, launch

CPU = torch.device("cpu")
KERNELS = list(configs.ATTENTION)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton's interpreter is off where a GPU is"
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "HEAD_DIMS", {64: 16})
    monkeypatch.setattr(tune, "CHANNELS", 16)


def shipped(kernel: str) -> configs.KernelConfig:
    return configs.find(kernel, 64, "float32", "sm_90")


def prefers_two(tasks: Mapping[str, Task], device: torch.device, seconds: float) -> dict[str, Timing]:
    """As if a field's value were the faster, the nearer it is to 2."""
    return {name: Timing(abs(int(name) - 2) + 1, 0, 0) for name in tasks}


def sees_no_difference(tasks: Mapping[str, Task], device: torch.device, seconds: float) -> dict[str, Timing]:
    return {name: Timing(1 + 0.019 * (int(name) % 3) / 2, 0, 0) for name in tasks}


def test_the_fastest_value_of_each_field_is_taken() -> None:
    found = list(tune.tune(CPU, torch.float32, tokens=40, clock=prefers_two))
    assert [each.kernel for each in found] == KERNELS
    best = {"num_stages": 2, "block_rows": 16, "num_warps": 4, "programs_per_sm": 2}
    assert found == [replace(shipped(kernel), **best) for kernel in KERNELS]


def test_noise_changes_nothing() -> None:
    found = list(tune.tune(CPU, torch.float32, tokens=40, clock=sees_no_difference))
    assert found == [shipped(kernel) for kernel in KERNELS]


def test_what_gives_other_numbers_is_never_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[int] = []

    def clock(tasks: Mapping[str, Task], device: torch.device, seconds: float) -> dict[str, Timing]:
        timed.append(len(tasks))
        return prefers_two(tasks, device, seconds)

    monkeypatch.setattr(tune, "DIFFERENCE", -1.0)
    found = list(tune.tune(CPU, torch.float32, tokens=40, clock=clock))
    assert set(timed) == {1}
    assert found == [shipped(kernel) for kernel in KERNELS]


def test_its_clock_runs_each_config_for_real() -> None:
    k, v = torch.randn(2, 1, 40, 16).unbind(0)
    expected = launch.state_forward(k, v, 1)
    used: list[int] = []
    for rows in (16, 32):
        task = tune._task(
            replace(shipped("state_forward"), block_rows=rows),
            lambda: (launch.state_forward(k, v, 1), used.append(plan_rows(k))),
        )
        assert torch.allclose(task.once()[0], expected, rtol=1e-4, atol=1e-4)
    assert used == [16, 32]
    assert plan_rows(k) == shipped("state_forward").block_rows


def plan_rows(k: torch.Tensor) -> int:
    return launch._plan("state_forward", k, 1, 0).options["BL"]


def test_the_table_is_the_devices_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configs.find("state_forward", 64, "bfloat16", "sm_90")
    path = tune.save([replace(config, num_stages=4)], tmp_path / "new", "NVIDIA H200")
    assert path == tmp_path / "new" / "NVIDIA_H200.json"
    monkeypatch.setattr(configs, "DIRECTORY", path.parent)
    configs.table.cache_clear()
    try:
        for dtype in ("float16", "bfloat16"):
            assert configs.find("state_forward", 40, dtype, "sm_90", "NVIDIA H200") == replace(
                config, dtype=dtype, num_stages=4
            )
    finally:
        configs.table.cache_clear()


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["tune", "--out", "x"])
    with pytest.raises(SystemExit, match="2"):
        tune.main()
    assert "no CUDA device" in capsys.readouterr().err
