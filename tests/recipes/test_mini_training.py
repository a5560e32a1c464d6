"""What the two stages minimise, and that a stopped diffusion training ends where an unstopped one does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from linzoo_recipes.mini import loop, models, train_unet, train_vae
from linzoo_recipes.mini.loop import Plan
from linzoo_recipes.mini.render import STYLES, Pictures
from linzoo_recipes.mini.tokenizer import train_tokenizer
from torch import Tensor
from transformers import CLIPTokenizer

CPU = torch.device("cpu")
NAMES = ["red apple", "violin", "red apple"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    return train_tokenizer(NAMES, tmp_path_factory.mktemp("tokenizer"), models.TEXT_TOKENS, merges=10)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    return Pictures(pixels, NAMES, ["noto", "flat", "3d"])


@pytest.fixture(scope="module")
def latents() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 4, 16, 16)).astype(np.float32)


@torch.no_grad()
def redrawn(vae: torch.nn.Module, pixels: Tensor) -> Tensor:
    return vae.decode(vae.encode(pixels).latent_dist.mean).sample


def test_a_fresh_autoencoder_already_paints_patch_colours() -> None:
    torch.manual_seed(0)
    colours = torch.rand(4, 3, 16, 16) * 2 - 1
    pixels = torch.nn.functional.interpolate(colours, scale_factor=8)
    drawn = torch.nn.functional.avg_pool2d(redrawn(models.vae(), pixels), 8)
    correlation = torch.corrcoef(torch.stack([drawn.flatten(), colours.flatten()]))[0, 1]
    assert correlation > 0.9


def test_centring_changes_latents_and_no_picture() -> None:
    torch.manual_seed(0)
    vae, pixels = models.vae(), torch.rand(2, 3, 64, 64) * 2 - 1
    before = redrawn(vae, pixels)
    posterior = vae.encode(pixels).latent_dist
    means, spread = posterior.mean.detach().numpy(), posterior.std.detach().numpy()
    centred = train_vae.centre_latents(vae, means)
    assert centred.mean(axis=(0, 2, 3)) == pytest.approx(np.zeros(4), abs=1e-5)
    spreads = centred.std(axis=(0, 2, 3))
    assert spreads == pytest.approx(np.full(4, spreads[0]), rel=1e-4)
    torch.testing.assert_close(redrawn(vae, pixels), before, atol=1e-5, rtol=1e-4)
    again = vae.encode(pixels).latent_dist
    np.testing.assert_allclose(again.mean.detach(), centred, atol=1e-5)
    factor = spreads / means.std(axis=(0, 2, 3))
    np.testing.assert_allclose(again.std.detach(), spread * factor[:, None, None], rtol=1e-4)


def test_pixels_span_minus_one_to_one() -> None:
    pixels = np.array([[[[0, 255, 51]]]], dtype=np.uint8)
    assert train_vae.to_model_range(pixels, CPU).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])


def test_training_the_autoencoder_measures_scale_and_keeps_latents(
    pictures: Pictures, tmp_path: Path
) -> None:
    plan = Plan(steps=1, lr=1e-4, warmup=1, ema=0.9)
    vae = train_vae.train_vae(pictures, tmp_path, CPU, plan)
    latents = np.load(tmp_path / "latents.npy")
    assert latents.shape == (3, 4, 16, 16)
    assert latents.std() == pytest.approx(1.0, rel=1e-4)
    means = vae.encode(train_vae.to_model_range(pictures.pixels, CPU)).latent_dist.mean.detach()
    np.testing.assert_allclose(means * vae.config.scaling_factor, latents, atol=1e-4)
    again = train_vae.train_vae(pictures, tmp_path, CPU, plan)
    assert again.config.scaling_factor == vae.config.scaling_factor


def test_base_data_has_each_picture_under_its_caption(
    pictures: Pictures, latents: np.ndarray, tokenizer: CLIPTokenizer
) -> None:
    data = train_unet.all_styles(pictures, latents, tokenizer)
    assert data.ids.shape == (3, 1, models.TEXT_TOKENS)
    decoded = tokenizer.decode(data.ids[1, 0], skip_special_tokens=True)
    assert decoded.replace(" ", "") == "violin,flatemoji"


def test_finetune_data_is_one_style_under_every_styles_caption(
    pictures: Pictures, latents: np.ndarray, tokenizer: CLIPTokenizer
) -> None:
    data = train_unet.one_style(pictures, latents, tokenizer)
    assert data.ids.shape == (1, len(STYLES), models.TEXT_TOKENS)
    assert torch.equal(data.latents[0], torch.from_numpy(latents[2]))


def test_a_perfect_guess_costs_nothing_and_high_noise_weighs_fully(tokenizer: CLIPTokenizer) -> None:
    class Guess(torch.nn.Module):
        def forward(self, noisy: Tensor, times: Tensor, _states: Tensor) -> object:
            alphas = models.scheduler().alphas_cumprod[times][:, None, None, None]
            return type("Output", (), {"sample": noisy / (1 - alphas).sqrt() + offset})

    offset = 0.0
    teacher = train_unet.fresh_teacher(tokenizer, 0)
    teacher.unet = Guess()
    zeros = torch.zeros(1, 4, 16, 16)
    ids = torch.zeros(1, 1, models.TEXT_TOKENS, dtype=torch.long)
    data = train_unet.Captioned(zeros, ids, torch.ones(1), ids[0, 0])
    loss = train_unet.diffusion_loss(teacher, data, CPU)
    assert float(loss(0, torch.Generator().manual_seed(0))["loss"]) == pytest.approx(0, abs=1e-8)
    offset = 1.0
    found = loss(0, torch.Generator().manual_seed(0))
    assert float(found["mse"]) == pytest.approx(1, abs=1e-5)
    assert 0.3 < float(found["loss"]) < 1


def test_diffusion_training_resumes_bit_equal(
    pictures: Pictures,
    latents: np.ndarray,
    tokenizer: CLIPTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_unet, "BATCH", 2)
    plan = Plan(steps=4, lr=1e-3, warmup=1, ema=0.9)
    data = train_unet.all_styles(pictures, latents, tokenizer)
    straight = train_unet.train_unet(data, tokenizer, tmp_path / "straight", CPU, plan)

    make = train_unet.diffusion_loss

    def stopping(*parts: object) -> loop.BatchLoss:
        loss = make(*parts)

        def stopped(step: int, generator: torch.Generator) -> dict[str, Tensor]:
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return dict(loss(step, generator))

        return stopped

    with monkeypatch.context() as interrupted:
        interrupted.setattr(train_unet, "diffusion_loss", stopping)
        with pytest.raises(loop.InterruptedTrainingError):
            train_unet.train_unet(data, tokenizer, tmp_path / "stopped", CPU, plan)
    resumed = train_unet.train_unet(data, tokenizer, tmp_path / "stopped", CPU, plan)
    expected = straight.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


def test_finetuning_leaves_the_text_encoder_alone(
    pictures: Pictures,
    latents: np.ndarray,
    tokenizer: CLIPTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_unet, "BATCH", 2)
    data = train_unet.one_style(pictures, latents, tokenizer)
    before = train_unet.fresh_teacher(tokenizer, 0)
    after = train_unet.finetune(
        train_unet.fresh_teacher(tokenizer, 0), data, tmp_path, CPU, Plan(steps=1, lr=1e-3, warmup=1, ema=0.5)
    )
    same = {name: torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items()}
    assert all(equal for name, equal in same.items() if name.startswith("text_encoder."))
    assert not any(
        equal for name, equal in same.items() if name.startswith("unet.") and "to_out.0.weight" in name
    )
