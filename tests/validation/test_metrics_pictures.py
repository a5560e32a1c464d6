from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import noisy, photographs
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from linzoo.validation.metrics.errors import MetricError
from linzoo.validation.metrics.latents import cosine
from linzoo.validation.metrics.pictures import PSNR_MOST, psnr, ssim
from linzoo.validation.metrics.text import clip_score


def wide(pictures: Tensor) -> Tensor:
    return pictures[..., :57, :]


@pytest.mark.parametrize("amount", [2, 20, 90])
def test_psnr_and_ssim_agree_with_scikit_image(amount: float) -> None:
    a = wide(photographs(96))
    b = noisy(a, amount)
    pairs = [(x.permute(1, 2, 0).numpy(), y.permute(1, 2, 0).numpy()) for x, y in zip(a, b, strict=True)]
    ratios = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in pairs]
    likenesses = [
        structural_similarity(
            x,
            y,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            channel_axis=2,
        )
        for x, y in pairs
    ]
    assert psnr(a, b).tolist() == pytest.approx(ratios, abs=1e-5)
    assert ssim(a, b).tolist() == pytest.approx(likenesses, abs=1e-9)
    assert max(likenesses) < 0.995
    assert psnr(a, b).dtype == ssim(a, b).dtype == torch.float64


def test_identical_pictures_have_the_most_and_one_level_in_one_pixel_has_less() -> None:
    a = photographs(64)
    assert psnr(a, a).tolist() == [PSNR_MOST] * 4
    assert ssim(a, a).tolist() == [1.0] * 4
    b = a.clone()
    b[:, 0, 0, 0] ^= 1
    assert psnr(a, b).tolist() == pytest.approx([10 * math.log10(255**2 * 3 * 64 * 64)] * 4, abs=1e-5)


def test_ssim_leaves_out_the_border_whose_window_is_not_whole() -> None:
    a = photographs(32)
    b = a.clone()
    b[..., 0] = 255 - b[..., 0]  # reaches five pixels inwards, to the first that counts
    c = a.clone()
    c[..., 5] = 255 - c[..., 5]
    assert (ssim(a, b) > ssim(a, c)).all()
    assert (1 - ssim(a, b)).max() < 0.01 < (1 - ssim(a, c)).min()


@given(st.integers(0, 2**32), st.integers(11, 24), st.integers(11, 24))
@settings(max_examples=25, deadline=None)
def test_order_of_a_pair_and_mirroring_do_not_matter(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, 256, (2, 2, 3, height, width), generator=generator).to(torch.uint8)
    for metric in (psnr, ssim):
        found = metric(a, b)
        torch.testing.assert_close(metric(b, a), found)
        torch.testing.assert_close(metric(a.flip(-1), b.flip(-1)), found)
        torch.testing.assert_close(metric(a.flip(0), b.flip(0)), found.flip(0))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), "uint8"),
        (torch.zeros(1, 1, 16, 16).byte(), torch.zeros(1, 1, 16, 16).byte(), r"\(B, 3, H, W\)"),
        (torch.zeros(2, 3, 16, 16).byte(), torch.zeros(1, 3, 16, 16).byte(), "one shape"),
        (torch.zeros(0, 3, 16, 16).byte(), torch.zeros(0, 3, 16, 16).byte(), "one shape"),
        (torch.zeros(1, 3, 16, 10).byte(), torch.zeros(1, 3, 16, 10).byte(), "at least 11 pixels.*10x16"),
    ],
)
def test_what_is_no_pair_of_pictures_is_refused(a: Tensor, b: Tensor, words: str) -> None:
    with pytest.raises(MetricError, match=words):
        ssim(a, b)


def test_cosine_of_latents() -> None:
    a = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    b = torch.stack([a[0] * 3, -a[1], torch.zeros_like(a[2])])
    assert cosine(a, b).tolist() == pytest.approx([1, -1, 0], abs=1e-12)
    with pytest.raises(MetricError, match="one shape"):
        cosine(a, a[:2])


def test_cosine_takes_no_mean_away() -> None:
    a = torch.tensor([[1.0, 1.0]])
    assert float(cosine(a, torch.tensor([[1.0, 0.0]]))) == pytest.approx(math.sqrt(0.5))


def test_clip_score_is_a_hundred_cosines_and_never_below_zero() -> None:
    images = torch.tensor([[2.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    texts = torch.tensor([[0.5, 0.0], [1.0, 0.0], [-1.0, 1.0]])
    assert clip_score(images, texts).tolist() == pytest.approx([100, 60, 0])
    with pytest.raises(MetricError, match="one shape"):
        clip_score(images, texts[:, :1])
