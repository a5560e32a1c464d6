"""Noise, targets, timesteps and weights, each against its formula."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler
from hypothesis import given
from hypothesis import strategies as st

from linzoo.distillation.batch import Draws
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.noise import Noise
from linzoo.distillation.recipe import Timesteps

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def scheduler(prediction: str = "epsilon", **changes: object) -> DDIMScheduler:
    return DDIMScheduler(prediction_type=prediction, **(BETAS | changes))


def signal(timesteps: torch.Tensor) -> torch.Tensor:
    """The share of the latents, by the definition of the scaled linear schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)[timesteps].view(-1, 1, 1, 1)


def draws(count: int, step: int = 0) -> Draws:
    return Draws(0, "distill", step, range(count))


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


TIMESTEPS = torch.tensor([1, 500, 998])


@pytest.mark.parametrize("cls", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_noise_is_added_alike_whatever_the_sampler(
    cls: type, latents: torch.Tensor, noise: torch.Tensor
) -> None:
    share = signal(TIMESTEPS)
    expected = share.sqrt() * latents + (1 - share).sqrt() * noise
    noisy = Noise(cls(**BETAS)).add(latents, noise, TIMESTEPS)
    torch.testing.assert_close(noisy, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_target_is_what_gives_latents_and_noise_back(
    prediction: str, latents: torch.Tensor, noise: torch.Tensor
) -> None:
    process = Noise(scheduler(prediction))
    share = signal(TIMESTEPS).float()
    velocity = share.sqrt() * noise - (1 - share).sqrt() * latents
    expected = {"epsilon": noise, "v_prediction": velocity, "sample": latents}[prediction]
    noisy, target = process.add(latents, noise, TIMESTEPS), process.target(latents, noise, TIMESTEPS)
    torch.testing.assert_close(target, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(process.to_latents(target, noisy, TIMESTEPS), latents, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(process.to_noise(target, noisy, TIMESTEPS), noise, rtol=1e-3, atol=1e-4)


@given(st.sampled_from(PREDICTIONS), st.integers(0, 998), st.integers(0, 2**31))
def test_every_output_is_some_latents_and_some_noise(prediction: str, timestep: int, seed: int) -> None:
    process, at = Noise(scheduler(prediction)), torch.tensor([timestep])
    random = torch.Generator().manual_seed(seed)
    noisy, output = torch.randn(2, 1, 4, 2, 2, generator=random, dtype=torch.float64)
    clean, noise = process.to_latents(output, noisy, at), process.to_noise(output, noisy, at)
    torch.testing.assert_close(process.add(clean, noise, at), noisy)
    torch.testing.assert_close(process.target(clean, noise, at), output)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_min_snr_weighs_the_error_of_the_latents(prediction: str) -> None:
    process = Noise(scheduler(prediction), Timesteps(weighting="min_snr", gamma=5))
    share = signal(TIMESTEPS).flatten()
    snr = share / (1 - share)
    divisor = {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones(3)}[prediction]
    weights = process.weights(TIMESTEPS)
    assert weights is not None
    torch.testing.assert_close(weights.double(), snr.clamp(max=5) / divisor, rtol=1e-4, atol=0)
    assert Noise(scheduler(prediction)).weights(TIMESTEPS) is None


def test_a_schedule_that_ends_in_pure_noise_is_safe(latents: torch.Tensor, noise: torch.Tensor) -> None:
    process = Noise(scheduler("v_prediction", rescale_betas_zero_snr=True), Timesteps(weighting="min_snr"))
    last = torch.tensor([999] * 3)
    weights, noisy = process.weights(last), process.add(latents, noise, last)
    assert weights is not None
    assert torch.equal(weights, torch.zeros(3))
    assert torch.equal(noisy, noise)
    torch.testing.assert_close(process.to_latents(-latents, noisy, last), latents)
    with pytest.raises(DistillationError, match="predicts v"):
        Noise(scheduler(rescale_betas_zero_snr=True))


def test_another_prediction_type_is_refused() -> None:
    with pytest.raises(DistillationError, match="'flow'"):
        Noise(scheduler("flow"))


def drawn(process: Noise, steps: int = 40) -> torch.Tensor:
    return torch.cat([process.timesteps(draws(50, step)) for step in range(steps)])


def test_uniform_timesteps_fill_the_range_evenly() -> None:
    timesteps = drawn(Noise(scheduler()))
    assert timesteps.dtype == torch.int64
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    counts = timesteps.div(100, rounding_mode="floor").bincount(minlength=10)
    assert counts.min() > 150
    assert counts.max() < 250


def test_logit_normal_timesteps_have_its_quantiles() -> None:
    timesteps = drawn(Noise(scheduler(), Timesteps(sampling="logit_normal"))).double()
    for quantile, z in ((0.1587, -1.0), (0.5, 0.0), (0.8413, 1.0)):
        assert timesteps.quantile(quantile).item() == pytest.approx(1000 / (1 + math.exp(-z)), abs=25)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' Euler sampler
@pytest.mark.parametrize("cls", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_trajectory_timesteps_are_those_of_the_pipelines_sampler(cls: type) -> None:
    sampler = cls(**BETAS)
    timesteps = drawn(Noise(sampler, Timesteps(sampling="trajectory")))
    sampler.set_timesteps(25)
    visited = sampler.timesteps.double()
    assert len(timesteps.unique()) == len(visited.unique())
    assert (timesteps[:, None] - visited[None]).abs().amin(1).max() <= 0.5
    assert timesteps.bincount().max() < 2 * 2000 / 25


def test_a_part_of_a_batch_draws_what_the_whole_batch_draws() -> None:
    process = Noise(scheduler())
    whole = process.timesteps(draws(8))
    parts = [process.timesteps(Draws(0, "distill", 0, range(start, start + 2))) for start in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), whole)
