"""The training loop: resuming changes no bit, checkpoints are whole, the log has each step once."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from linzoo_recipes.mini import files, loop
from linzoo_recipes.mini.errors import MiniError
from torch import Tensor, nn

PLAN = loop.Plan(steps=20, lr=1e-2, warmup=4, ema=0.9, save_every=10, log_every=5)


def fresh() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))


def loss_of(module: nn.Module, stop_at: int | None = None) -> loop.BatchLoss:
    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        values = torch.randn(16, 4, generator=generator)
        return {"loss": (module(values) - values.sum(1, keepdim=True)).square().mean()}

    return loss


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def straight(tmp_path: Path) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Weights and log of twenty steps without a stop."""
    module = fresh()
    loop.train(module, loss_of(module), PLAN, tmp_path / "straight")
    return weights(module), loop.read_log(tmp_path / "straight")


def losses(log: list[dict[str, float]]) -> list[tuple[float, float]]:
    return [(line["step"], line["loss"]) for line in log]


@pytest.mark.parametrize("stop_at", [0, 9, 12])
def test_sigterm_saves_and_the_next_run_ends_bit_equal(
    tmp_path: Path, straight: tuple[dict[str, Tensor], list[dict[str, float]]], stop_at: int
) -> None:
    module = fresh()
    with pytest.raises(loop.InterruptedTrainingError, match=f"stopped at step {stop_at + 1};"):
        loop.train(module, loss_of(module, stop_at), PLAN, tmp_path)
    torch.manual_seed(99)
    module = fresh()
    loop.train(module, loss_of(module), PLAN, tmp_path)
    assert same(weights(module), straight[0])
    assert losses(loop.read_log(tmp_path)) == losses(straight[1])


def test_a_crash_goes_back_to_the_last_checkpoint(
    tmp_path: Path, straight: tuple[dict[str, Tensor], list[dict[str, float]]]
) -> None:
    module = fresh()
    steps = loss_of(module)

    def crashing(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == 17:
            raise RuntimeError("power cut")
        return dict(steps(step, generator))

    with pytest.raises(RuntimeError, match="power cut"):
        loop.train(module, crashing, PLAN, tmp_path)
    assert [line["step"] for line in loop.read_log(tmp_path)] == [5, 10, 15]
    module = fresh()
    loop.train(module, loss_of(module), PLAN, tmp_path)
    assert same(weights(module), straight[0])
    assert losses(loop.read_log(tmp_path)) == losses(straight[1])


def test_a_failing_save_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = fresh()
    saves: list[object] = []
    save = torch.save

    def failing(value: object, path: Path) -> None:
        saves.append(value)
        if len(saves) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(value, path)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="No space left"):
        loop.train(module, loss_of(module), PLAN, tmp_path)
    saved = loop.read_checkpoint(tmp_path)
    assert saved is not None
    assert saved["step"] == 10
    assert not list(tmp_path.glob(".*"))


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    module = fresh()
    loop.train(module, loss_of(module), PLAN, tmp_path)
    again = fresh()
    loop.train(again, lambda *_: pytest.fail("trained again"), PLAN, tmp_path)
    assert same(weights(module), weights(again))


def test_another_plan_is_refused(tmp_path: Path) -> None:
    module = fresh()
    loop.train(module, loss_of(module), PLAN, tmp_path)
    with pytest.raises(MiniError, match="another plan"):
        loop.train(module, loss_of(module), replace(PLAN, steps=40), tmp_path)


def test_a_loss_that_is_no_number_stops_training(tmp_path: Path) -> None:
    module = fresh()
    steps = loss_of(module)

    def broken(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"loss": steps(step, generator)["loss"] * float("nan")}

    with pytest.raises(MiniError, match="loss at step 5 is nan"):
        loop.train(module, broken, PLAN, tmp_path)


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    module = fresh()
    loop.train(module, loss_of(module), PLAN, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_learning_rate_warms_up_and_falls_to_a_hundredth() -> None:
    rates = [PLAN.lr_at(step) for step in range(PLAN.steps + 1)]
    assert rates[0] == pytest.approx(PLAN.lr / 4)
    assert max(rates) == pytest.approx(PLAN.lr)
    assert rates[PLAN.steps] == pytest.approx(PLAN.lr / 100)


def test_replacing_keeps_the_old_file_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write_half() -> None:
        with files.replacing(target) as partial:
            partial.write_text("ne")
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
