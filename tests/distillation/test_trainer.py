"""The trainer: gradients add up over micro-batches, what is not finite is skipped, rates and averages are as documented."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from toy import ToyRun, toy_recipe

from linzoo.distillation.ema import WeightAverage
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.optimization import Optimization, require_optimizer
from linzoo.distillation.recipe import Align, Distill, Ema, Finish, Guards, Optimizer, Recipe


def align(**changes: object) -> Recipe:
    return toy_recipe(align=Align(**({"steps": 6, "batch": 8} | changes)), distill=None)


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    whole = ToyRun(tmp_path / "whole", align()).run("align")
    parts = ToyRun(tmp_path / "parts", align(micro_batch=2)).run("align")
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-5)


def test_reports_losses_norms_and_rates(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, align(optimizer=Optimizer(new=1e-2, inherited=1e-3, warmup=4, clip=None)))
    trainer = run.trainer("align")
    reports = [trainer.step() for _ in range(3)]
    assert [report.number for report in reports] == [1, 2, 3]
    assert [report.rates["new"] for report in reports] == pytest.approx([0, 0.0025, 0.005])
    assert reports[2].rates["inherited"] == pytest.approx(5e-4)
    losses = reports[0].losses
    assert losses["kd"] == pytest.approx(2 * losses["loss"])
    norms = reports[0].norms
    assert norms["total"] == pytest.approx(math.hypot(norms["new"], norms["inherited"]))
    assert reports[0].samples == 8
    assert "grad_norm_new" in reports[0].to_json()


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    """With SGD-like first steps of Adam the direction alone counts, so the gradients themselves are looked at."""
    run = ToyRun(tmp_path, align(optimizer=Optimizer(clip=1e-3)))
    trainer = run.trainer("align")
    seen: list[float] = []
    step = trainer._optimization.optimizer.step

    def look() -> None:
        gradients = [parameter.grad for parameter in run.student.parameters.values()]
        seen.append(float(torch.nn.utils.get_total_norm(gradients)))
        step()

    trainer._optimization.optimizer.step = look
    report = trainer.step()
    assert report.norms["total"] > 1e-3
    assert seen == [pytest.approx(1e-3, rel=1e-2)]


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, align())
    trainer = run.trainer("align")
    trainer.step()
    before = {name: value.detach().clone() for name, value in run.student.parameters.items()}
    run.objectives["align"].poison = 1
    report = trainer.step()
    assert report.skipped
    assert trainer.skips == 1
    assert all(torch.equal(before[name], value) for name, value in run.student.parameters.items())
    assert not trainer.step().skipped
    assert trainer.done == 3
    other = run.trainer("align")
    other.load(*trainer.state())
    assert (other.done, other.skips) == (3, 1)


def test_training_data_that_are_not_finite_are_named(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, align().model_copy(update={"guards": Guards(max_skips=0)}))
    trainer = run.trainer("align")
    trainer._items.rows[:] = float("inf")
    with pytest.raises(DistillationError, match="not finite: the training data"):
        trainer.step()


def test_too_many_skips_stop_the_run_and_name_the_layer(tmp_path: Path) -> None:
    recipe = align().model_copy(update={"guards": Guards(max_skips=0)})
    run = ToyRun(tmp_path, recipe)
    run.objectives["align"].poison = 0
    with pytest.raises(DistillationError, match=r"align step 1: the loss is nan .*layer '2'"):
        run.trainer("align").step()


def test_gradients_that_are_not_finite_are_named(tmp_path: Path) -> None:
    recipe = align().model_copy(update={"guards": Guards(max_skips=0)})
    run = ToyRun(tmp_path, recipe)
    run.student.unet[0].bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(DistillationError, match=r"the gradient of '0\.bias'"):
        run.trainer("align").step()


def test_the_average_follows_the_weights() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    average = WeightAverage({"w": weight}, Ema(decay=0.9))
    for update, expected in ((1, 9 / 11), (2, 9 / 12 + 3 / 12 * 9 / 11)):
        with torch.no_grad():
            weight.fill_(1.0)
        average.update()
        assert average.updates == update
        assert average.average["w"].tolist() == pytest.approx([expected] * 3)
    with average.in_place():
        assert weight.tolist() == pytest.approx([expected] * 3)
    assert weight.tolist() == [1.0] * 3


def test_a_step_takes_the_weights_into_the_average_and_drops_the_gradients(tmp_path: Path) -> None:
    run = ToyRun(tmp_path, toy_recipe(align=None, distill=Distill(steps=4, batch=8, ema=Ema(decay=0.9))))
    weight = run.student.parameters["0.weight"]
    before = weight.detach().clone()
    trainer = run.trainer("distill")
    trainer.step()
    assert all(parameter.grad is None for parameter in run.student.parameters.values())
    after = weight.detach().clone()
    assert not torch.equal(before, after)
    with trainer.averaged():
        torch.testing.assert_close(weight.detach(), before.lerp(after, 9 / 11))
    assert torch.equal(weight, after)
    run.objectives["distill"].poison = 1
    trainer.step()  # skipped
    assert trainer.state()[0]["ema_updates"] == 1


def test_the_end_of_the_stage_is_the_finish(tmp_path: Path) -> None:
    recipe = toy_recipe(
        align=None, distill=Distill(steps=4, batch=2, finish=Finish(sizes=((64, 64),), fraction=0.5))
    )
    run = ToyRun(tmp_path, recipe)
    asked: list[bool] = []
    trainer = run.trainer("distill")
    indices = trainer._items.indices

    def note(*args: object, finishing: bool) -> object:
        asked.append(finishing)
        return indices(*args, finishing=finishing)

    trainer._items.indices = note
    assert [trainer.step().finishing for _ in range(4)] == asked == [False, False, True, True]


def test_optimizer_state_survives_a_round_trip() -> None:
    torch.manual_seed(0)
    settings = Align(steps=4, batch=1)

    def made() -> tuple[torch.nn.Linear, Optimization]:
        layer = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(layer.weight)
        groups = {"new": [layer.bias], "inherited": [layer.weight]}
        return layer, Optimization(dict(layer.named_parameters()), groups, settings)

    layer, first = made()
    layer(torch.randn(5, 3)).square().sum().backward()
    first.optimizer.step()
    tensors, numbers = first.state()
    assert "weight/exp_avg" in tensors
    _, second = made()
    second.load(tensors, numbers)
    loaded, _ = second.state()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


class WrappingAdamW(torch.optim.AdamW):
    """As in bitsandbytes 0.50: ``state_dict`` has tensors in a dictionary of their own, ``load_state_dict`` takes both."""

    def state_dict(self) -> dict[str, Any]:
        document = super().state_dict()
        for index, entries in document["state"].items():
            document["state"][index] = {"step": 1, "wrapped": dict(entries)}
        return document


def test_eight_bit_moments_survive_a_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "bitsandbytes" or real(name))
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=WrappingAdamW))
    layer = torch.nn.Linear(3, 2)
    groups = {"new": [layer.bias], "inherited": [layer.weight]}
    stage = Align(steps=4, batch=1, optimizer=Optimizer(name="adamw8bit"))
    first, second = (Optimization(dict(layer.named_parameters()), groups, stage) for _ in range(2))
    layer(torch.ones(1, 3)).sum().backward()
    first.optimizer.step()
    tensors, numbers = first.state()
    assert {"weight/exp_avg", "bias/exp_avg_sq"} <= set(tensors)
    assert json.loads(json.dumps(numbers)) == numbers
    second.load(tensors, numbers)
    assert all(torch.equal(second.state()[0][name], value) for name, value in tensors.items())


def test_a_missing_optimizer_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    require_optimizer(Optimizer())
    with pytest.raises(DistillationError, match=r"linzoo\[8bit\]"):
        require_optimizer(Optimizer(name="adamw8bit"))
