from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from linzoo.validation.metrics import distribution
from linzoo.validation.metrics.distribution import cmmd, frechet, kid
from linzoo.validation.metrics.errors import MetricError


def features(count: int, width: int, seed: int, shift: float = 0.0) -> Tensor:
    """Non-negative and correlated, as pooled features are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(7)) / width**0.5
    return (torch.randn(count, width, generator=generator) @ mixing + shift).relu()


def frechet_by_scipy(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    means = np.square(x.mean(0) - y.mean(0)).sum()
    return float(means + np.trace(first) + np.trace(second) - 2 * np.trace(sqrtm(first @ second)).real)


def kid_by_definition(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def apart(one: np.ndarray) -> float:
        matrix = kernel(one, one)
        return float((matrix.sum() - np.trace(matrix)) / (len(one) * (len(one) - 1)))

    return apart(x) + apart(y) - 2 * float(kernel(x, y).mean())


def cmmd_by_definition(a: Tensor, b: Tensor) -> float:
    x, y = (each.double().numpy() for each in (a, b))
    x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))

    def kernel(one: np.ndarray, other: np.ndarray) -> float:
        squares = np.square(one[:, None] - other[None]).sum(-1)
        return float(np.exp(-squares / 200).mean())

    return 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


@pytest.mark.parametrize(("count", "other", "width"), [(400, 300, 24), (2000, 2000, 64), (60, 50, 40)])
def test_frechet_agrees_with_scipy(count: int, other: int, width: int) -> None:
    a, b = features(count, width, 0), features(other, width, 1, 0.2)
    assert frechet(a, b) == pytest.approx(frechet_by_scipy(a, b), rel=1e-6)


def test_frechet_agrees_with_torchmetrics_where_features_outnumber_samples() -> None:
    a, b = features(24, 96, 0), features(30, 96, 1, 0.2)
    passing = nn.Identity()
    passing.num_features = 96
    metric = FrechetInceptionDistance(feature=passing)
    metric.update(a.double(), real=True)
    metric.update(b.double(), real=False)
    assert frechet(a, b) == pytest.approx(float(metric.compute()), rel=1e-4)


def test_frechet_of_known_gaussians() -> None:
    a = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]])  # variances 2/3 and 8/3
    b = torch.tensor([[2.0, 0.0], [4.0, 0.0], [3.0, -1.0], [3.0, 1.0]])  # 2/3 and 2/3, three to the right
    assert frechet(a, b) == pytest.approx(9 + (8 / 3 + 2 / 3 - 2 * (16 / 9) ** 0.5))


@given(st.integers(0, 2**32), st.integers(2, 40), st.integers(2, 40), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_distances_are_symmetric_zero_for_a_set_and_itself_and_blind_to_order(
    seed: int, count: int, other: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, width, generator=generator) + 1
    b = torch.randn(other, width, generator=generator)
    for distance in (frechet, cmmd):
        found = distance(a, b)
        assert found >= -1e-9
        assert distance(b, a) == pytest.approx(found, rel=1e-9, abs=1e-9)
        assert distance(a, a) == pytest.approx(0, abs=1e-9)
        shuffled = a[torch.randperm(count, generator=generator)]
        assert distance(shuffled, b) == pytest.approx(found, rel=1e-9, abs=1e-9)


@given(st.integers(0, 2**32), st.floats(-50, 50))
@settings(max_examples=25, deadline=None)
def test_frechet_does_not_change_when_all_features_move(seed: int, shift: float) -> None:
    a, b = features(30, 6, seed % 1000), features(30, 6, seed % 1000 + 1, 0.3)
    assert frechet(a.double() + shift, b.double() + shift) == pytest.approx(frechet(a, b), abs=1e-9)


def test_kid_of_whole_sets_is_its_definition() -> None:
    a, b = features(40, 16, 0), features(40, 16, 1, 0.5)
    mean, deviation = kid(a, b)
    assert mean == pytest.approx(kid_by_definition(a, b), rel=1e-10)
    assert deviation == 0


def test_kid_takes_no_more_than_the_smaller_set_has() -> None:
    a, b = features(40, 16, 0), features(25, 16, 1, 0.5)
    assert kid(a, b, subset_size=25) == kid(a, b, subset_size=1000) == kid(a, b)
    assert kid(a, b)[1] > 0


def test_kid_of_subsets_is_near_and_the_same_for_a_seed() -> None:
    a, b = features(200, 16, 0), features(200, 16, 1, 0.5)
    whole, _ = kid(a, b)
    mean, deviation = kid(a, b, subsets=50, subset_size=40)
    assert abs(mean - whole) < 4 * deviation / 50**0.5
    assert 0 < deviation < whole
    assert kid(a, b, subsets=50, subset_size=40) == (mean, deviation)
    assert kid(a, b, subsets=50, subset_size=40, seed=1) != (mean, deviation)


def test_kid_of_one_distribution_is_zero_on_average() -> None:
    found = [kid(features(50, 16, 2 * seed), features(50, 16, 2 * seed + 1))[0] for seed in range(40)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / len(found) ** 0.5


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_cmmd_agrees_with_its_definition_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(distribution, "_BLOCK", block)
    a, b = features(50, 32, 0) - 0.2, features(33, 32, 1) * 5
    assert cmmd(a, b) == pytest.approx(cmmd_by_definition(a, b), abs=1e-9)
    assert cmmd(a, b) > 0.1


def test_cmmd_does_not_look_at_lengths() -> None:
    a, b = features(20, 8, 0) + 0.1, features(20, 8, 1) + 0.1
    lengths = torch.linspace(0.1, 9, 20)[:, None]
    assert cmmd(a * lengths, b) == pytest.approx(cmmd(a, b), rel=1e-5)


def test_worse_pictures_are_further_away() -> None:
    real = features(300, 16, 0)
    near, far = features(300, 16, 1, 0.1), features(300, 16, 2, 0.6)
    for distance in (frechet, cmmd, lambda a, b: kid(a, b)[0]):
        assert distance(real, far) > 3 * distance(real, near) > 0


@pytest.mark.parametrize("distance", [frechet, kid])
def test_one_sample_is_too_few(distance: object) -> None:
    with pytest.raises(MetricError, match="at least 2 samples, got 5 and 1"):
        distance(torch.zeros(5, 3), torch.zeros(1, 3))  # type: ignore[operator]


@pytest.mark.parametrize("distance", [frechet, kid, cmmd])
def test_features_that_do_not_fit_together_are_refused(distance: object) -> None:
    with pytest.raises(MetricError, match=r"\(5, 3\) and \(5, 4\)"):
        distance(torch.zeros(5, 3), torch.zeros(5, 4))  # type: ignore[operator]


def test_an_empty_set_and_a_subset_of_one_are_refused() -> None:
    with pytest.raises(MetricError, match="at least 1 samples, got 0 and 5"):
        cmmd(torch.zeros(0, 3), torch.zeros(5, 3))
    with pytest.raises(MetricError, match="100 of 1"):
        kid(torch.zeros(5, 3), torch.zeros(5, 3), subset_size=1)
