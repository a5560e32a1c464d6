"""What a run watches for: layers that are not finite, full memory, steps that become slow."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from toy import ToyRun, toy_recipe

from linzoo.distillation.errors import DistillationError
from linzoo.distillation.guards import SpeedWatch, explain_memory, first_non_finite
from linzoo.distillation.recipe import Guards


class Poison(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        return {"sample": [x, x / 0]}


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(2, 2), Poison())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x)["sample"][0]

    net = Net()
    assert first_non_finite(net, lambda: net(torch.ones(1, 2))) == "block.1"
    assert not any(module._forward_hooks for module in net.modules())


def test_finite_layers_are_not_named() -> None:
    layer = nn.Linear(2, 2)
    assert first_non_finite(layer, lambda: layer(torch.ones(1, 2))) is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        MemoryError(),
    ],
)
def test_full_memory_is_told_with_what_lowers_it(error: Exception) -> None:
    with (
        pytest.raises(DistillationError, match=r"^out of memory \(.*\)\nlower this"),
        explain_memory(lambda: "lower this"),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape"), explain_memory(lambda: "never asked"):
        raise RuntimeError("shape mismatch")


def test_a_run_that_stops_for_them_saves_what_it_has(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, toy_recipe(guards=Guards(max_skips=0)))
    run.objectives["align"].poison = 4
    with pytest.raises(DistillationError, match="align step 5: the loss is nan"):
        run.run()
    again = ToyRun(tmp_path)
    assert again.states.steps() == [3, 4]
    ended, straight = again.run(), ToyRun(tmp_path / "straight").run()
    assert all(torch.equal(ended[name], value) for name, value in straight.items())


def test_a_sudden_slowness_is_told_once() -> None:
    watch = SpeedWatch()
    assert [watch.add(seconds) for seconds in (30.0, *[1.0] * 30)] == [None] * 31
    told = [watch.add(3.5) for _ in range(40)]
    [warning] = [each for each in told if each]
    assert "takes 3.5 s now and took 1 s at first" in warning


def test_one_slow_step_is_no_slowness() -> None:
    watch = SpeedWatch()
    assert not any(watch.add(20.0 if step % 10 == 0 else 1.0) for step in range(100))
