"""Init recipe ``random``: torch's own distributions, seeded by tensor name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from linzoo.init.convert import convert
from linzoo.init.random import uniform
from tests.init.toys import read_result, toy_registry, toy_unet, write_ldm

PINNED = [
    -0.8061813116073608,
    -0.031036734580993652,
    0.6928970813751221,
    0.4654644727706909,
    0.680695652961731,
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ldm(tmp_path_factory.mktemp("random") / "a.safetensors", toy_unet())


def tensors(source: Path, out: Path, **options: object) -> dict[str, np.ndarray]:
    convert(source, out, init="random", dtype="float32", registry=toy_registry(), **options)  # type: ignore[arg-type]
    return read_result(out)[1]


def test_is_what_torch_would_draw(source: Path, tmp_path: Path) -> None:
    found = tensors(source, tmp_path / "out")
    for name, array in found.items():
        layer = name.split(".", 1)[1]
        if ".1." in layer:  # LayerNorm
            assert (array == (1 if name.endswith("weight") else 0)).all()
            continue
        fan_in = found[f"{name.rpartition('.')[0]}.weight"].shape[1]
        bound = 1 / np.sqrt(fan_in)
        assert np.abs(array).max() <= bound
        if array.ndim == 2:
            assert np.abs(array).max() > 0.99 * bound
            assert array.std() == pytest.approx(bound / np.sqrt(3), rel=0.06)
            assert abs(array.mean()) < 4 * bound / np.sqrt(3 * array.size)


def test_against_torch_itself() -> None:
    import torch

    torch.manual_seed(0)
    ours = np.sort(uniform("k", 4096) / 8)
    theirs = np.sort(torch.nn.Linear(64, 64).weight.detach().numpy().reshape(-1))
    assert np.abs(ours - theirs).max() < 0.03 / 8 * 2, "quantiles of the two samples agree"


def test_seed_and_name_decide_and_nothing_else(source: Path, tmp_path: Path) -> None:
    first = tensors(source, tmp_path / "a")
    again = tensors(source, tmp_path / "b")
    other = tensors(source, tmp_path / "c", seed=1)
    hybrid = tensors(source, tmp_path / "d", plan="toy-inner")
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["0.to_q.weight"] == other["0.to_q.weight"]).any()
    assert (hybrid["0.to_q.weight"] == first["1.to_q.weight"]).all(), "the place in the list does not matter"
    drawn = [array.tobytes() for name, array in first.items() if array.ndim == 2]
    assert len(set(drawn)) == len(drawn), "no two tensors are alike"


def test_the_stream_never_changes() -> None:
    """Pinned: a result made with an older linzoo can be made again."""
    values = uniform("0:mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight", 5)
    assert values.dtype == np.float32
    assert values.tolist() == PINNED


def test_odd_counts_are_prefixes() -> None:
    assert (uniform("k", 7) == uniform("k", 8)[:7]).all()
    assert uniform("k", 0).shape == (0,)
    many = uniform("k", 100_000)
    assert -1 <= many.min() < -0.9999
    assert 0.9999 < many.max() < 1
