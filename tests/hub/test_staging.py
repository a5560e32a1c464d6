"""The files of a push, before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from linzoo.checkpoints.lock import changed_outputs, read_lock
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.hub.staging import Staged, stage_adapter

CHECKPOINT = "mini-linfusion"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_small_weights_are_pushed_from_where_they_lie(tmp_path: Path) -> None:
    checkpoint = open_source(CHECKPOINT)
    files = stage_adapter(checkpoint, tmp_path, 10**9)
    assert files == {name: checkpoint.path / name for name in ("config.json", WEIGHTS)}
    assert not list(tmp_path.iterdir())


def test_shards_hold_every_tensor_once_and_load_as_one(tmp_path: Path) -> None:
    checkpoint = open_source(CHECKPOINT)
    files = stage_adapter(checkpoint, tmp_path, 300_000)
    shards = [name for name in files if name.endswith(".safetensors")]
    assert shards == [f"diffusion_pytorch_model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads(files[f"{WEIGHTS}.index.json"].read_text())
    assert index["metadata"]["total_size"] == sum(info.nbytes for info in checkpoint.tensors.values())
    before = load_file(checkpoint.files[0])
    after = {}
    for name in shards:
        tensors = load_file(files[name])
        assert sum(each.nbytes for each in tensors.values()) <= 300_000
        assert {index["weight_map"][each] for each in tensors} == {name}
        after |= tensors
    assert set(after) == set(before)
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)

    (tmp_path / "config.json").write_bytes(files["config.json"].read_bytes())
    again = open_source(tmp_path)
    assert len(again.files) == 3
    assert {name: bytes(again.read_bytes(name)) for name in again.tensors} == {
        name: bytes(checkpoint.read_bytes(name)) for name in checkpoint.tensors
    }


def test_the_same_shards_every_time(tmp_path: Path) -> None:
    checkpoint = open_source(CHECKPOINT)
    both = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files = stage_adapter(checkpoint, tmp_path / name, 200_000)
        both.append({each: path.read_bytes() for each, path in files.items()})
    assert both[0] == both[1]


def test_no_room_for_shards_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="make room"):
        stage_adapter(open_source(CHECKPOINT), tmp_path, 300_000)
    assert not list(tmp_path.iterdir())


def test_the_lock_file_names_every_pushed_file_and_not_the_card(tmp_path: Path) -> None:
    checkpoint = open_source(CHECKPOINT)
    lock = read_lock(checkpoint.path)
    assert lock is not None
    files = stage_adapter(checkpoint, tmp_path, 300_000)
    staged = Staged(files).with_lock(lock, tmp_path).with_card("# card\n", tmp_path)
    assert set(staged.files) == {*files, "linzoo.lock.json", "README.md"}
    written = read_lock(tmp_path)
    assert written is not None
    assert set(written["outputs"]) == set(files)
    assert {key: value for key, value in written.items() if key != "outputs"} == {
        key: value for key, value in lock.items() if key != "outputs"
    }
    (tmp_path / "config.json").write_bytes(files["config.json"].read_bytes())
    assert changed_outputs(tmp_path, written) == []
    assert staged.sizes["README.md"] == 7
