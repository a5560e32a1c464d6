"""What is opened as a LinFusion checkpoint, and what is told of all that is often taken for one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes import write_json, write_sparse

from linzoo.checkpoints.linear_unet import CLASS_NAME
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.registry import Registry, build_registry
from linzoo.testing.fake_hub import FakeHub

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return build_registry(entry_points=False)


@pytest.fixture
def folder(registry: Registry, tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(open_source("mini-linfusion", registry=registry).path, tmp_path / "linfusion")
    )


def test_a_folder_a_name_and_a_repository(registry: Registry, folder: Path, tmp_path: Path) -> None:
    names = set(open_linfusion(folder, registry=registry).tensors)
    assert names == set(open_linfusion("mini-linfusion", registry=registry).tensors)
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("user/linfusion", {each.name: each for each in folder.iterdir()})
        for fetch_weights in (True, False):
            opened = open_linfusion("user/linfusion", registry=registry, fetch_weights=fetch_weights)
            assert set(opened.tensors) == names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run", r"run: the folder of a distillation; its checkpoint is .*linfusion$"),
        ("linfusion/" + WEIGHTS, r"safetensors: one file, and a LinFusion checkpoint is a folder"),
        (
            "mini",
            r"^mini: a model and not a LinFusion checkpoint; 'linzoo convert mini OUT' makes one from it",
        ),
        ("pipeline", r"pipeline: a whole pipeline .*trust_remote_code=True"),
        ("nothing", r"no such file or folder, and no registered name"),
    ],
)
def test_what_is_often_taken_for_one(
    name: str, message: str, registry: Registry, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "run" / "linfusion")
    write_json(tmp_path / "pipeline" / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    write_json(tmp_path / "pipeline" / "unet" / "config.json", {"_class_name": CLASS_NAME})
    write_sparse(tmp_path / "pipeline" / "unet" / WEIGHTS, {"conv_in.weight": (4, 4)})
    spec = tmp_path / name if (tmp_path / name).exists() else name
    with pytest.raises(CheckpointError, match=message):
        open_linfusion(spec, registry=registry)


def test_a_file_on_the_hub_is_refused_before_it_is_fetched(registry: Registry, tmp_path: Path) -> None:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("user/model", {"v1.safetensors": b""})
        with pytest.raises(CheckpointError, match=r"^hf://user/model/v1.safetensors: one file, and"):
            open_linfusion("hf://user/model/v1.safetensors", registry=registry)
        assert hub.requests == []
