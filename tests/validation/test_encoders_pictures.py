"""Networks for pictures. Those that must be downloaded run on made-up weights here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from photographs import noisy, photographs
from PIL import Image
from torch import Tensor, nn

from linzoo.validation.encoders.lpips import LpipsAlex
from linzoo.validation.encoders.lpips import is_cached as lpips_is_cached
from linzoo.validation.encoders.pixels import IMAGENET_MEAN, IMAGENET_STD, normalise, square
from linzoo.validation.metrics.distribution import frechet, kid


def test_the_published_protocols_square_is_pillows() -> None:
    """As ``src/eval`` of the published code: the middle of the longer side, then Lanczos."""
    picture = Image.fromarray(skimage.data.chelsea())  # 451 x 300
    wanted = picture.crop((75, 0, 375, 300)).resize((64, 64), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    found = square(pixels, 64)
    assert torch.equal(found, torch.from_numpy(np.array(wanted)).permute(2, 0, 1))
    assert torch.equal(square(found, 64), found)


@pytest.fixture(scope="module")
def lite0() -> Any:
    pytest.importorskip("efficientnet_lite_pytorch")
    return importlib.import_module("linzoo.validation.encoders.efficientnet").EfficientNetLite0("cpu")


@pytest.mark.parametrize(("name", "classes"), [("chelsea", {281, 282, 285, 287}), ("coffee", {967, 968})])
def test_efficientnet_knows_cats_and_coffee(lite0: Any, name: str, classes: set[int]) -> None:
    pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None]
    with torch.no_grad():
        chances = lite0._network._fc(lite0.features(pixels)).softmax(1)[0]
    assert float(chances[sorted(classes)].sum()) > 0.9


def test_efficientnet_tells_near_from_far(lite0: Any) -> None:
    pictures = photographs(128)
    seen, near, far = (lite0.features(each) for each in (pictures, noisy(pictures, 10), noisy(pictures, 90)))
    assert seen.shape == (4, 1280)
    assert (seen.dtype, seen.requires_grad) == (torch.float32, False)
    for distance in (frechet, lambda a, b: kid(a, b)[0]):
        assert distance(seen, near) < distance(seen, far)
    torch.testing.assert_close(lite0.features(pictures[1:2]), seen[1:2], rtol=1e-4, atol=1e-5)


def test_normalised_levels() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 1, 2)
    found = normalise(pixels, IMAGENET_MEAN, IMAGENET_STD)[0, :, 0]
    for channel, (mean, deviation) in enumerate(zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)):
        assert found[channel].tolist() == pytest.approx([-mean / deviation, (1 - mean) / deviation])


class FakeExtractor(nn.Module):
    """Answers as torch-fidelity's network does: a tuple, one member for each feature that was asked for."""

    def __init__(self, name: str, features_list: list[str]) -> None:
        super().__init__()
        assert features_list == ["2048"]
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.given.append(x)
        return (x.float().mean((2, 3)).repeat(1, 683)[:, :2048],)


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = ModuleType("torch_fidelity")
    module.FeatureExtractorInceptionV3 = FakeExtractor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    monkeypatch.delitem(sys.modules, "linzoo.validation.encoders.inception", raising=False)
    return importlib.import_module("linzoo.validation.encoders.inception")


def test_inception_is_given_whole_levels_of_its_own_size(inception: Any) -> None:
    encoder = inception.InceptionV3("cpu")
    features = encoder.features(photographs(100))
    assert features.shape == (4, 2048)
    (given,) = encoder._network.given
    assert (given.shape, given.dtype) == ((4, 3, 299, 299), torch.uint8)
    assert not encoder._network.training


def test_weights_of_torch_hub_are_looked_for_where_they_are_kept(
    inception: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert not inception.is_cached()
    assert not lpips_is_cached()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth").touch()
    assert inception.is_cached()
    assert not lpips_is_cached()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    assert lpips_is_cached()


def alexnet(weights: object) -> Any:
    """AlexNet's convolutions, untrained."""
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    return SimpleNamespace(features=features)


@pytest.fixture
def lpips(monkeypatch: pytest.MonkeyPatch) -> LpipsAlex:
    """torchmetrics' LPIPS over a stand-in for torchvision."""
    torchvision = ModuleType("torchvision")
    torchvision.models = SimpleNamespace(  # type: ignore[attr-defined]
        alexnet=alexnet, AlexNet_Weights=SimpleNamespace(DEFAULT="none")
    )
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    for module in ("torchmetrics.image.lpip", "torchmetrics.functional.image.lpips"):
        monkeypatch.setattr(f"{module}._TORCHVISION_AVAILABLE", True)
    return LpipsAlex("cpu")


def test_lpips_is_zero_for_a_picture_and_itself_and_grows_with_noise(lpips: LpipsAlex) -> None:
    pictures = photographs(64)
    assert lpips.distance(pictures, pictures).tolist() == [0] * 4
    near, far = (lpips.distance(pictures, noisy(pictures, amount)) for amount in (5, 60))
    assert near.shape == (4,)
    assert (near.dtype, near.requires_grad) == (torch.float32, False)
    assert (near > 0).all()
    assert (near < far).all()
    torch.testing.assert_close(lpips.distance(noisy(pictures, 60), pictures), far)


def test_lpips_of_one_pair_is_that_of_the_pair_among_others(lpips: LpipsAlex) -> None:
    pictures = photographs(64)
    others = noisy(pictures, 30)
    alone = lpips.distance(pictures[2:3], others[2:3])
    assert alone.shape == (1,)
    torch.testing.assert_close(alone, lpips.distance(pictures, others)[2:3], rtol=1e-4, atol=1e-6)


def test_lpips_is_given_levels_between_minus_one_and_one(lpips: LpipsAlex) -> None:
    pictures = photographs(64)
    others = noisy(pictures, 30)
    wanted = lpips._network(pictures / 127.5 - 1, others / 127.5 - 1).flatten()
    torch.testing.assert_close(lpips.distance(pictures, others), wanted, rtol=1e-4, atol=1e-6)
