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
    opened, config = open_linfusion(folder, registry=registry)
    names = set(opened.tensors)
    assert len(config.modules) == 10
    assert names == set(open_linfusion("mini-linfusion", registry=registry)[0].tensors)
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("user/linfusion", {each.name: each for each in folder.iterdir()})
        for fetch_weights in (False, True):
            opened, _ = open_linfusion("user/linfusion", registry=registry, fetch_weights=fetch_weights)
            assert (set(opened.tensors), opened.spec) == (names, "hf://user/linfusion")
            assert (opened.path / WEIGHTS).is_file() == fetch_weights


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run", r"run: the folder of a distillation; its checkpoint is .*linfusion$"),
        (
            "linfusion/" + WEIGHTS,
            r"safetensors: one file, and a LinFusion checkpoint is a folder.*; name /.*/linfusion$",
        ),
        (
            "mini",
            r"^mini: a model and not a LinFusion checkpoint; 'linzoo convert mini OUT' makes one from it",
        ),
        ("linfusion/config.json", r"config.json: linzoo reads .safetensors"),
        ("component", r"has no 'modules_list' \(its class is 'AutoencoderKL'\)"),
        ("x" * 300, r"cannot be read: File name too long"),
        ("pipeline", r"pipeline: a whole pipeline .*trust_remote_code=True"),
        ("nothing", r"no such file or folder, and no registered name"),
    ],
)
def test_what_is_often_taken_for_one(
    name: str, message: str, registry: Registry, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "run" / "linfusion")
    write_json(tmp_path / "component" / "config.json", {"_class_name": "AutoencoderKL"})
    write_sparse(tmp_path / "component" / WEIGHTS, {"conv_in.weight": (4, 4)})
    write_json(tmp_path / "pipeline" / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    write_json(tmp_path / "pipeline" / "unet" / "config.json", {"_class_name": CLASS_NAME})
    write_sparse(tmp_path / "pipeline" / "unet" / WEIGHTS, {"conv_in.weight": (4, 4)})
    spec = tmp_path / name if len(name) < 300 and (tmp_path / name).exists() else name
    with pytest.raises(CheckpointError, match=message):
        open_linfusion(spec, registry=registry)


def test_where_it_lies_does_not_matter(registry: Registry, folder: Path, tmp_path: Path) -> None:
    """In the folder of a pipeline, and with a folder in it that is called as a distillation calls its result."""
    pipeline = tmp_path / "pipeline"
    write_json(pipeline / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    shutil.copytree(folder, pipeline / "mine")
    shutil.copytree(folder, pipeline / "mine" / "linfusion")
    opened, config = open_linfusion(pipeline / "mine", registry=registry)
    assert (opened.path, len(config.modules)) == (pipeline / "mine", 10)


def test_shards(registry: Registry, folder: Path, tmp_path: Path) -> None:
    from linzoo.hub.staging import stage_adapter

    (tmp_path / "staged").mkdir()
    staged = stage_adapter(open_linfusion(folder, registry=registry)[0], tmp_path / "staged", 300_000)
    assert len(staged) > 3
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("user/shards", {**staged, "config.json": folder / "config.json"})
        for fetch_weights in (False, True):
            opened, _ = open_linfusion("user/shards", registry=registry, fetch_weights=fetch_weights)
            assert set(opened.tensors) == set(open_linfusion(folder, registry=registry)[0].tensors)


@pytest.mark.parametrize("name", ["mini", "mini-3d"])
def test_a_model_on_the_hub_is_refused_before_its_weights_are_fetched(
    name: str, registry: Registry, tmp_path: Path
) -> None:
    model = open_source(name, registry=registry).path
    files: dict[str, bytes | Path] = {model.name: model}
    if model.is_dir():
        files = {path.relative_to(model).as_posix(): path for path in model.rglob("*") if path.is_file()}
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("user/model", files)
        with pytest.raises(CheckpointError, match=r"a model and not a LinFusion checkpoint|one file, and"):
            open_linfusion("user/model", registry=registry)
        assert sum(each.sent for each in hub.requests) < 200_000


def test_a_file_on_the_hub_is_refused_before_it_is_fetched(registry: Registry, tmp_path: Path) -> None:
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        hub.put("user/model", {"v1.safetensors": b""})
        with pytest.raises(CheckpointError, match=r"^hf://user/model/v1.safetensors: one file, and"):
            open_linfusion("hf://user/model/v1.safetensors", registry=registry)
        assert hub.requests == []
