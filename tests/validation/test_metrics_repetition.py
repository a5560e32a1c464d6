from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import NAMES, noisy, photograph
from torch import Tensor

from linzoo.validation.metrics.errors import MetricError
from linzoo.validation.metrics.repetition import repetition

NATIVE = 128
SIDE = 2 * NATIVE


def score(picture: Tensor) -> float:
    return float(repetition(picture[None], NATIVE))


def quarters(*pictures: Tensor) -> Tensor:
    """Four pictures as one."""
    return torch.cat([torch.cat(pictures[:2], dim=2), torch.cat(pictures[2:], dim=2)], dim=1)


def plane(levels: Tensor) -> Tensor:
    """A grey picture of (H, W)."""
    return levels.round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)


Y, X = torch.meshgrid(torch.arange(SIDE).float(), torch.arange(SIDE).float(), indexing="ij")


def discs(*centres: tuple[float, float]) -> Tensor:
    inside = torch.stack([(Y - y).hypot(X - x) < SIDE / 10 for y, x in centres]).any(0)
    return plane(torch.where(inside, 40.0, 200.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("native", [128, 512])
def test_a_tiled_picture_has_one_and_a_photograph_little(name: str, native: int) -> None:
    tiled = photograph(name, native).repeat(1, 2, 2)
    found = repetition(torch.stack([tiled, photograph(name, 2 * native)]), native)
    assert float(found[0]) == pytest.approx(1, abs=1e-9)
    assert float(found[1]) < 0.4


def test_two_of_four_that_are_the_same_are_found_and_four_different_ones_are_not() -> None:
    one, two, three, four = (photograph(name, NATIVE) for name in NAMES)
    assert score(quarters(one, two, three, one)) > 0.95
    assert score(quarters(one, two, three, four)) < 0.3


def test_copies_that_differ_a_little_are_found() -> None:
    copies = [noisy(photograph("coffee", NATIVE), 40, seed) for seed in range(4)]
    assert 0.8 < score(quarters(*copies)) < 0.99


def test_a_second_object_is_told_from_one() -> None:
    assert score(discs((128, 128))) < 0.1
    assert score(discs((128, 64), (128, 192))) > 0.95
    assert score(discs((128, 40), (128, 128), (128, 216))) > 0.6


def test_edges_and_slopes_are_no_repetition() -> None:
    assert score(plane(torch.where(Y > 90, 40.0, 200.0))) < 0.01
    assert score(plane(torch.where(Y > 90 + 0.3 * X, 40.0, 200.0))) < 0.2
    assert score(plane(255 * X / SIDE)) == 0
    assert score(plane(127 * (X + Y) / SIDE)) == 0
    assert score(plane(torch.full((SIDE, SIDE), 255.0))) == 0


def test_noise_is_no_repetition() -> None:
    generator = torch.Generator().manual_seed(0)
    assert score(torch.randint(0, 256, (3, SIDE, SIDE), generator=generator).to(torch.uint8)) < 0.1


def test_stripes_repeat() -> None:
    assert score(plane(torch.where(X // 16 % 2 == 0, 40.0, 200.0))) == pytest.approx(1, abs=1e-6)


def test_a_faint_pattern_in_a_background_does_not_count_beside_an_object() -> None:
    pattern = 2 * torch.where((X // 20 + Y // 20) % 2 == 0, 1.0, -1.0)
    corner = torch.where((Y < 100) & (X > 156), photograph("coffee", SIDE)[0].float(), 128 + pattern)
    assert score(plane(corner)) < 0.3


def test_shifts_below_a_quarter_of_the_native_size_do_not_count() -> None:
    def two(apart: float) -> float:
        return score(discs_of(SIDE / 40, (128, 128 - apart / 2), (128, 128 + apart / 2)))

    def discs_of(radius: float, *centres: tuple[float, float]) -> Tensor:
        inside = torch.stack([(Y - y).hypot(X - x) < radius for y, x in centres]).any(0)
        return plane(torch.where(inside, 40.0, 200.0))

    assert two(NATIVE / 4 - 12) < 0.15
    assert two(NATIVE / 4 + 2) > 0.4


@given(st.integers(0, 2**32), st.integers(1, 2), st.integers(0, 40))
@settings(max_examples=15, deadline=None)
def test_brightness_contrast_and_mirroring_do_not_matter(seed: int, contrast: int, brightness: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 100, (1, 3, 12, 12), generator=generator).float()
    picture = torch.nn.functional.interpolate(coarse, (80, 72), mode="bilinear").to(torch.uint8)
    found = repetition(picture, 64)
    assert 0 < float(found) < 1
    torch.testing.assert_close(repetition(picture * contrast + brightness, 64), found)
    for axes in ((-1,), (-2,), (-1, -2)):
        torch.testing.assert_close(repetition(picture.flip(axes), 64), found)
    torch.testing.assert_close(repetition(picture.mT, 64), found)


def test_each_picture_of_a_batch_has_its_own_score() -> None:
    pictures = torch.stack([photograph("coffee", SIDE), photograph("rocket", NATIVE).repeat(1, 2, 2)])
    found = repetition(pictures, NATIVE)
    assert found.tolist() == [score(each) for each in pictures]
    assert found.dtype == torch.float64


def test_pictures_below_the_native_size_are_refused() -> None:
    with pytest.raises(MetricError, match=r"at least 128 pixels.*got 128x64"):
        repetition(torch.zeros(1, 3, 64, 128).byte(), 128)
    with pytest.raises(MetricError, match="at least 16 pixels, got 8"):
        repetition(torch.zeros(1, 3, 64, 64).byte(), 8)


@pytest.mark.parametrize("side", [16, 17, 31])
def test_the_smallest_pictures_have_a_score(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 3, side, side), generator=generator).to(torch.uint8)
    assert 0 <= float(repetition(picture, 16)) <= 1
