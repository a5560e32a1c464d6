"""The base hash: the same for the same weights however they are kept, another for every fine-tune."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from linzoo.checkpoints.base_hash import base_hash, hash_arrays, hashed_names
from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.lock import read_lock
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.checkpoints.source import open_source
from linzoo.checkpoints.unet import open_unet
from linzoo.registry import build_registry
from linzoo.testing.fake_hub import FakeHub
from tests.init.toys import Arrays, toy_registry, toy_unet, tuned, write_folder, write_ldm

QUERIES = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


def hash_of(source: object, *, fetch_weights: bool = True) -> str | None:
    checkpoint = open_source(str(source), registry=toy_registry(), fetch_weights=fetch_weights)
    return base_hash(open_unet(checkpoint, toy_registry().variants.get_value("toy")))


def hash_in(folder: Path, unet: Arrays) -> str | None:
    return hash_of(write_ldm(folder / "model.safetensors", unet))


@pytest.fixture(scope="module")
def unet() -> Arrays:
    return toy_unet(dtype=np.float32)


def cast(unet: Arrays, dtype: object) -> Arrays:
    return {name: array.astype(dtype) for name, array in unet.items()}


def test_layout_and_precision_make_no_difference(unet: Arrays, tmp_path: Path) -> None:
    hashes = {
        hash_of(write_ldm(tmp_path / "full.safetensors", unet)),
        hash_of(write_ldm(tmp_path / "half.safetensors", cast(unet, np.float16))),
        hash_of(write_ldm(tmp_path / "bare.safetensors", unet, prefix="")),
        hash_of(write_folder(tmp_path / "folder", cast(unet, np.float64))),
    }
    assert len(hashes) == 1


def test_bfloat16_has_a_hash_of_its_own_and_keeps_it_in_wider_precisions(
    unet: Arrays, tmp_path: Path
) -> None:
    coarse = cast(unet, ml_dtypes.bfloat16)
    own = hash_of(write_ldm(tmp_path / "bf16.safetensors", coarse))
    assert own is not None
    assert own != hash_in(tmp_path, unet)
    assert own == hash_in(tmp_path, cast(coarse, np.float32)) == hash_in(tmp_path, cast(coarse, np.float16))


def test_quantised_weights_have_none(unet: Arrays, tmp_path: Path) -> None:
    assert hash_in(tmp_path, cast(unet, ml_dtypes.float8_e4m3fn)) is None


def test_a_fine_tune_and_a_seed_have_others(unet: Arrays, tmp_path: Path) -> None:
    others = [tuned(unet, amount=0.001), toy_unet(seed=1, dtype=np.float32)]
    assert len({hash_in(tmp_path, each) for each in (unet, *others)}) == 3


@pytest.mark.parametrize("trained", ["attn1.to_q", "attn2.to_k"])
@pytest.mark.parametrize("blocks", ["", "down_blocks", "up_blocks"])
def test_a_lora_that_is_merged_into_one_attention_or_one_half_shows(
    unet: Arrays, tmp_path: Path, trained: str, blocks: str
) -> None:
    names = [name for name in unet if name.startswith(blocks) and trained in name]
    assert names
    random = np.random.default_rng(0)
    merged = dict(unet)
    for name in names:
        rows, columns = unet[name].shape
        merged[name] = unet[name] + 0.01 * random.standard_normal(
            (rows, 1), np.float32
        ) @ random.standard_normal((1, columns), np.float32)
    assert hash_in(tmp_path, merged) != hash_in(tmp_path, unet)


def test_what_is_read_of_sdxl() -> None:
    manifest = unet_manifest(
        component_config(build_registry(entry_points=False, env={}).variants.get_value("sdxl"), "unet")
    )
    names = hashed_names(reversed(manifest))
    assert names == [
        "conv_in.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "up_blocks.0.attentions.0.transformer_blocks.1.attn1.to_q.weight",
        "up_blocks.0.attentions.0.transformer_blocks.1.attn2.to_k.weight",
        "up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_q.weight",
        "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_k.weight",
    ]
    assert sum(2 * int(np.prod(manifest[name])) for name in names) < 16e6


def test_of_a_model_on_the_hub_only_these_tensors_are_read(unet: Arrays, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", unet)
    files = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()}
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("someone/model", files)
        assert hash_of("hf://someone/model", fetch_weights=False) == hash_of(folder)
        sent = sum(each.sent for each in hub.requests if each.host == "localhost")
    weights = (folder / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert 0 < sent < weights / 2


def test_mini_and_its_linfusion_checkpoint_agree() -> None:
    registry = build_registry(entry_points=False, env={})
    mini = registry.variants.get_value("mini")
    hashes = {
        name: base_hash(open_unet(open_source(name, registry=registry), mini)) for name in mini.local_teachers
    }
    lock = read_lock(mini.local_linfusion["mini-linfusion"].locate())
    assert lock is not None
    assert lock["source"]["base_hash"] == hashes["mini"] == hashes["mini-v1"] != hashes["mini-3d"]


@settings(deadline=None)
@given(
    arrays(np.float32, array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32, allow_nan=False))
)
def test_any_float32_numbers_hash_as_their_float16_rounding(array: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float16)
    assert hash_arrays([("x", array)]) == hash_arrays([("x", rounded)])
    assert hash_arrays([("x", array)]) != hash_arrays([("y", array)])


def test_shapes_count() -> None:
    assert hash_arrays([("x", np.zeros((2, 3)))]) != hash_arrays([("x", np.zeros((3, 2)))])
