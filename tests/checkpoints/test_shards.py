"""Weights in shards: every tensor once, no file larger than asked for, and linzoo and diffusers find them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.checkpoints.folder import open_component
from linzoo.checkpoints.shards import write_weights
from linzoo.checkpoints.writer import TensorSpec

NAME = "diffusion_pytorch_model.safetensors"


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.integers(min_value=1, max_value=40), min_size=1, max_size=12),
    most=st.integers(min_value=4, max_value=400),
)
def test_every_tensor_is_in_one_shard_that_is_small_enough(sizes: list[int], most: int) -> None:
    arrays = {f"t{n}": np.arange(size, dtype=np.float32) + n for n, size in enumerate(sizes)}
    specs = {name: TensorSpec(name, "F32", array.shape) for name, array in arrays.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        *weights, last = write_weights(folder / NAME, specs.values(), arrays.__getitem__, most)
        store = open_component(folder)
        assert {name: bytes(store.read_bytes(name)) for name in arrays} == {
            name: array.tobytes() for name, array in arrays.items()
        }
        if not weights:
            assert last == folder / NAME
            return
        index = json.loads(last.read_text())
        assert last.name == f"{NAME}.index.json"
        assert index["metadata"] == {"total_size": 4 * sum(sizes)}
        assert sorted(set(index["weight_map"].values())) == [path.name for path in weights]
        for path in weights:
            inside = [name for name, shard in index["weight_map"].items() if shard == path.name]
            assert len(inside) == 1 or sum(specs[name].nbytes for name in inside) <= most


def test_one_file_where_one_is_enough(tmp_path: Path) -> None:
    arrays = {"a": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    specs = [TensorSpec(name, "F32", (4,)) for name in arrays]
    assert write_weights(tmp_path / NAME, specs, arrays.__getitem__, 32) == [tmp_path / NAME]
    assert [path.name for path in write_weights(tmp_path / NAME, specs, arrays.__getitem__, 31)] == [
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        f"{NAME}.index.json",
    ]
