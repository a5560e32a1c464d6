"""What the experiments of distillation run: mixers over more tokens, the published loop, what is done and what is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from linzoo_benchmarks.distillation import ablation, resolution, speed, transfer
from linzoo_benchmarks.distillation.arms import ARMS, UNTRAINED
from linzoo_benchmarks.distillation.networks import Networks
from linzoo_benchmarks.distillation.published import PublishedLoop
from linzoo_benchmarks.distillation.resolution import MIXERS, Fitted, Sample
from linzoo_benchmarks.distillation.rows import AblationRow
from linzoo_benchmarks.distillation.worker import LOOPS, our_loop
from linzoo_benchmarks.errors import BenchmarkError

CPU = torch.device("cpu")


def attention(seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    return Attention(query_dim=16, heads=2, dim_head=8).requires_grad_(False)


def tokens(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(4, count, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_mixer_is_fitted_to_the_attention_it_replaces(mixer: str) -> None:
    layer, x = attention(), tokens(64)
    fitted = Fitted.to(layer, MIXERS[mixer], Sample(x, layer(x)))
    assert fitted.error(Sample(x, layer(x))) < 0.9  # 1 is the error of putting out nothing
    assert fitted.tokens == 64


@pytest.mark.parametrize(("mixer", "growth"), [("normalised", 1.0), ("mean", 1.0), ("sum", 4.0)])
def test_without_normalisation_the_output_grows_with_the_tokens(mixer: str, growth: float) -> None:
    layer, x = attention(), tokens(16)
    fitted = Fitted(layer, MIXERS[mixer], 16, 2.0, torch.empty(0))
    once, again = fitted.mix(x), fitted.mix(x.repeat(1, 4, 1))[:, :16]
    assert torch.allclose(again[..., :-1], growth * once[..., :-1], rtol=1e-4, atol=1e-5)


def test_row_sums_are_one_when_normalised() -> None:
    layer = attention()
    layer.to_v = torch.nn.Linear(16, 16, bias=False)
    x = tokens(16)
    fitted = Fitted(layer, MIXERS["normalised"], 16, 1.0, torch.empty(0))
    layer.to_v.forward = torch.ones_like  # type: ignore[method-assign]
    assert torch.allclose(fitted.mix(x), torch.ones(4, 16, 17), atol=1e-3)


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks("mini", CPU)


def test_the_published_loop_has_two_networks_and_empties_its_lists(networks: Networks) -> None:
    loop = PublishedLoop(networks, torch.float32, 2)
    losses = loop.step()
    assert loop.unet is not loop.teacher
    assert (loop.features, loop.teacher_features) == ([], [])
    total = losses["noise"] + 0.5 * losses["kd"] + 0.5 * losses["features"]
    assert losses["loss"] == pytest.approx(total, rel=1e-5)
    trained = [each for group in loop.optimizer.param_groups for each in group["params"]]
    assert len(trained) == 10 * 17
    assert all(parameter.requires_grad for parameter in trained)


def test_the_published_loop_learns(networks: Networks) -> None:
    torch.manual_seed(0)
    loop = PublishedLoop(networks, torch.float32, 4, encodes=False)
    losses = [loop.step()["features"] for _ in range(6)]
    assert losses[-1] < losses[0]


def test_given_latents_it_holds_no_encoders(networks: Networks) -> None:
    loop = PublishedLoop(networks, torch.float32, 2, encodes=False)
    assert not hasattr(loop, "vae")
    assert loop.latents.shape == (2, 4, 16, 16)


def test_the_published_loop_runs_in_half_precision(networks: Networks) -> None:
    loop = PublishedLoop(networks, torch.bfloat16, 2)
    assert math.isfinite(loop.step()["loss"])
    assert next(loop.teacher.parameters()).dtype == torch.bfloat16
    assert next(loop.unet.parameters()).dtype == torch.float32


@pytest.mark.parametrize("changes", [{}, {"checkpointing": True}, {"micro_batch": 1}])
def test_our_loop_has_the_published_losses(networks: Networks, changes: dict[str, Any]) -> None:
    losses = our_loop(networks, torch.float32, 2, **changes).step().losses
    total = losses["noise"] + 0.5 * losses["kd"] + 0.5 * losses["features"]
    assert losses["loss"] == pytest.approx(total, rel=1e-5)


def test_every_loop_that_is_timed_can_be_built() -> None:
    assert tuple(LOOPS) == speed.LOOPS


def test_a_loop_that_fails_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "LOOPS", ("no such loop",))
    with pytest.raises(BenchmarkError, match=r"(?s)'no such loop' at the size of mini failed:.*KeyError"):
        speed.run(tmp_path / "speed.csv", print, turns=1)


Measure = Callable[..., AblationRow]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Arms and seeds that are run, in the place of running them."""
    calls: list[tuple[str, int]] = []

    def measure(bench: object, arm: Any, seed: int, digest: str, curve: object) -> AblationRow:
        if (arm.name, seed) == ("ours", 1) and len(calls) < 10**6 and ("stop", 0) in calls:
            raise KeyboardInterrupt
        calls.append((arm.name, seed))
        return AblationRow(
            arm=arm.name, seed=seed, kd=0.1, guided=0.1, features=0.1, psnr=10.0, steps=1, batch=1, seconds=1.0,
            recipe=digest,
        )  # fmt: skip

    monkeypatch.setattr(ablation, "_measure", measure)
    return calls


def run(folder: Path) -> list[AblationRow]:
    return ablation.run(folder / "a.csv", folder / "c.csv", folder / "work", lambda line: None)


def test_a_seed_runs_all_arms_before_the_next_seed(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    run(tmp_path)
    names = [arm.name for arm in (*UNTRAINED, *ARMS)]
    assert measured == [(name, seed) for seed in (0, 1, 2) for name in names]


def test_what_has_its_row_is_not_run_again(tmp_path: Path, measured: list[tuple[str, int]]) -> None:
    measured.append(("stop", 0))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    before = len(measured)
    measured.remove(("stop", 0))
    rows = run(tmp_path)
    assert measured[before - 1] == ("ours", 1)
    assert len(measured) == len(set(measured)) == len(rows) == 3 * (len(ARMS) + len(UNTRAINED))


def test_a_changed_arm_is_run_again(
    tmp_path: Path, measured: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path)
    measured.clear()
    monkeypatch.setattr(ablation, "_digest", lambda arm, seed: "new" if arm.name == "align" else "")
    ablation.run(
        tmp_path / "a.csv",
        tmp_path / "c.csv",
        tmp_path,
        lambda line: None,
        arms=[each for each in ARMS if each.name == "align"],
    )
    assert measured == [("align", 0), ("align", 1), ("align", 2)]


def test_transfer_asks_for_the_ablation_first(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="run `linzoo bench distill ablation` first"):
        transfer.run(tmp_path / "t.csv", tmp_path / "work", print)


def test_resolution_is_measured_once_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def measure(pipe: object, seed: int) -> list[tuple[str, int, int, float]]:
        seeds.append(seed)
        return [("sum", 1, 256, 0.1), ("sum", 4, 1024, 0.4)]

    monkeypatch.setattr(resolution, "measure", measure)
    monkeypatch.setattr(resolution, "open_pipeline", lambda source: None)
    rows = resolution.run(tmp_path / "r.csv", lambda line: None)
    assert resolution.run(tmp_path / "r.csv", lambda line: None) == rows
    assert seeds == [0, 1, 2]
    assert [row.growth for row in rows if row.factor == 4] == pytest.approx([4.0] * 3)
