"""Every form of SOURCE: folders, shards, single files, registered names, the Hub's cache; and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import unet_shapes, write_json, write_sparse
from safetensors.numpy import save_file
from unet_configs import UNETS

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.source import open_source
from linzoo.checkpoints.unet import UNetTensors, open_unet
from linzoo.errors import CheckpointError
from linzoo.plugin import Resource
from linzoo.registry import Registry

WEIGHTS = "diffusion_pytorch_model"


def shard(folder: Path, weight_map: dict[str, Any], *, variant: str = "") -> Path:
    """A UNet folder in two shards, each tensor filled with its own number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        tensors = {f"down_blocks.{number}.weight": np.full((2, 3), number, np.float32)}
        save_file(tensors, folder / f"{WEIGHTS}-0000{number}-of-00002.safetensors")
    write_json(folder / "config.json", {"_class_name": "UNet2DConditionModel"})
    return write_json(
        folder / f"{WEIGHTS}.safetensors.index{variant}.json", {"metadata": {}, "weight_map": weight_map}
    )


GOOD_MAP = {f"down_blocks.{n}.weight": f"{WEIGHTS}-0000{n}-of-00002.safetensors" for n in (1, 2)}


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_one_model(variant: str, tmp_path: Path) -> None:
    shard(tmp_path, GOOD_MAP, variant=variant)
    opened = open_source(tmp_path)
    assert opened.layout == "diffusers-component"
    assert [path.name for path in opened.files] == sorted(GOOD_MAP.values())
    assert opened.read("down_blocks.2.weight").tolist() == [[2, 2, 2], [2, 2, 2]]


@pytest.mark.parametrize(
    "trick",
    [
        "../secret.safetensors", "/etc/secret.safetensors", "sub/shard.safetensors", "..\\secret.safetensors",
        "C:\\secret.safetensors", ".hidden.safetensors", "shard.bin", "shard.safetensors\0", "", None, 3, ["x.safetensors"],
    ],
)  # fmt: skip
def test_path_tricks_in_an_index_are_refused(trick: Any, tmp_path: Path) -> None:
    shard(tmp_path / "unet", {**GOOD_MAP, "down_blocks.1.weight": trick})
    with pytest.raises(
        CheckpointError, match=r"is not the plain name of a .safetensors file beside the index"
    ):
        open_source(tmp_path / "unet")


def test_shards_that_do_not_fit_their_index(tmp_path: Path) -> None:
    shard(tmp_path / "a", {**GOOD_MAP, "conv_in.weight": GOOD_MAP["down_blocks.1.weight"]})
    with pytest.raises(
        CheckpointError, match=r"the index says that 'conv_in.weight' is in this shard, but it is not"
    ):
        open_source(tmp_path / "a")
    shard(tmp_path / "b", {"down_blocks.2.weight": GOOD_MAP["down_blocks.1.weight"]})
    with pytest.raises(CheckpointError, match=r"the index says that 'down_blocks.2.weight' is in this shard"):
        open_source(tmp_path / "b")
    shard(tmp_path / "c", GOOD_MAP)
    save_file(
        {"down_blocks.2.weight": np.zeros(1), "x": np.zeros(1)},
        tmp_path / "c" / GOOD_MAP["down_blocks.2.weight"],
    )
    with pytest.raises(CheckpointError, match=r"holds 'x', which the index does not place in this shard"):
        open_source(tmp_path / "c")
    shard(tmp_path / "d", GOOD_MAP)
    (tmp_path / "d" / GOOD_MAP["down_blocks.2.weight"]).unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002.safetensors: missing, but .* lists it"):
        open_source(tmp_path / "d")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": []}, []])
def test_an_index_without_a_map(index: Any, tmp_path: Path) -> None:
    write_json(tmp_path / f"{WEIGHTS}.safetensors.index.json", index)
    write_json(tmp_path / "config.json", {})
    with pytest.raises(CheckpointError, match=r"no 'weight_map'|a JSON list and not an object"):
        open_source(tmp_path)


def pipeline(folder: Path, **scheduler: Any) -> Path:
    write_json(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **UNETS["sd15"]})
    write_sparse(folder / "unet" / f"{WEIGHTS}.safetensors", unet_shapes("sd15", "diffusers"))
    return folder


def test_a_pipeline_folder(tmp_path: Path, registry: Registry) -> None:
    opened = open_source(pipeline(tmp_path, prediction_type="epsilon"))
    assert opened.layout == "diffusers-folder"
    assert set(opened.configs) == {"model_index", "scheduler", "unet"}
    unet = open_unet(opened, registry.variants.get_value("sd15"))
    assert len(unet.tensors) == 686
    assert unet.config["_class_name"] == "UNet2DConditionModel"
    assert open_source(tmp_path / "unet").configs["scheduler"] == {"prediction_type": "epsilon"}


def test_the_full_precision_file_goes_before_the_variant(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    write_sparse(tmp_path / f"{WEIGHTS}.fp16.safetensors", {"conv_in.weight": (1,)})
    assert open_source(tmp_path).tensors["conv_in.weight"].dtype == "F16"
    write_sparse(
        tmp_path / f"{WEIGHTS}.safetensors", {"conv_in.weight": (1,)}, dtypes={"conv_in.weight": "F32"}
    )
    assert open_source(tmp_path).tensors["conv_in.weight"].dtype == "F32"


@pytest.mark.parametrize(
    "name", ["safetensors.index.fp16", "safetensors.fp16.index", "fp16.safetensors.index"]
)
def test_each_name_of_a_half_precision_index(name: str, tmp_path: Path) -> None:
    shard(tmp_path, GOOD_MAP)
    (tmp_path / f"{WEIGHTS}.safetensors.index.json").rename(tmp_path / f"{WEIGHTS}.{name}.json")
    assert set(open_source(tmp_path).tensors) == set(GOOD_MAP)


@pytest.mark.parametrize("layout", ["ldm", "ldm-bare", "diffusers"])
def test_the_unet_under_diffusers_names(layout: str, tmp_path: Path) -> None:
    shapes = unet_shapes("sd15", layout) | {"first_stage_model.encoder.conv_in.weight": (1,)}
    opened = open_source(write_sparse(tmp_path / "x.safetensors", shapes))
    assert opened.layout == layout
    unet = UNetTensors(opened, UNETS["sd15"])
    assert {name: info.shape for name, info in unet.tensors.items()} == unet_shapes("sd15", "diffusers")
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert unet.names[name] in opened.tensors
    assert unet.read(name).shape == (1280, 1280)


def test_what_the_unet_does_not_have_is_left_out(tmp_path: Path) -> None:
    shapes = {
        "model.diffusion_model.input_blocks.0.0.weight": (1,),
        "model.diffusion_model.input_blocks.99.0.x": (1,),
    }
    unet = UNetTensors(open_source(write_sparse(tmp_path / "x.safetensors", shapes)), UNETS["sd15"])
    assert list(unet.tensors) == ["conv_in.weight"]
    nothing = open_source(write_sparse(tmp_path / "y.safetensors", {"foo": (1,)}))
    with pytest.raises(CheckpointError, match=r"holds no UNet"):
        UNetTensors(nothing, UNETS["sd15"])


def test_registered_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline(tmp_path / "toys_for_source" / "teacher")
    (tmp_path / "toys_for_source" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    variant = SimpleNamespace(
        local_teachers={"toy": Resource("toys_for_source", "teacher")}, local_linfusion={}
    )
    registry: Any = SimpleNamespace(variants=[SimpleNamespace(value=variant)])
    opened = open_source("toy", registry=registry)
    assert (opened.spec, opened.path) == ("toy", tmp_path / "toys_for_source" / "teacher")
    with pytest.raises(
        CheckpointError, match=r"(?s)no registered name; did you mean 'toy'\?.*hf://user/repo"
    ):
        open_source("toi", registry=registry)
    with pytest.raises(CheckpointError, match=r"registered: toy"):
        open_source("dreamshaper.safetensors", registry=registry)


def test_what_is_no_source(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(CheckpointError, match=r"neither model_index.json nor config.json"):
        open_source(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"name the file itself: .*model\.safetensors"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"linzoo reads .safetensors, .*, not '.txt'"):
        open_source(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match=r"neither a file nor a folder"):
        open_source(tmp_path / "pipe.safetensors")
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"a link whose target is not there"):
        open_source(tmp_path / "dangling.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot be read: File name too long"):
        open_source(tmp_path / f"{'x' * 300}.safetensors")


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    write_json(tmp_path / "config.json", {})
    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(CheckpointError, match=r"cannot be read: Permission denied"):
        open_source(tmp_path)


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".Ckpt"])
def test_the_case_of_a_suffix_does_not_matter(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".Ckpt":
        import torch

        torch.save({"down_blocks.0.weight": torch.zeros(2)}, path)
    else:
        write_sparse(path, {"down_blocks.0.weight": (2,)})
    assert open_source(path).layout == "diffusers"


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    write_json(tmp_path / "flux" / "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(CheckpointError, match=r"a pipeline of class 'FluxPipeline' without a 'unet' folder"):
        open_source(tmp_path / "flux")
    write_json(tmp_path / "bare" / "config.json", {})
    with pytest.raises(CheckpointError, match=r"holds no weights"):
        open_source(tmp_path / "bare")
    (tmp_path / "bad").mkdir()
    for content, message in (
        ("{", "not valid JSON"),
        ("[]", "a JSON list"),
        ("[" * 99_999, "not valid JSON"),
    ):
        (tmp_path / "bad" / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            open_source(tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(CheckpointError, match=r"not valid JSON"):
        open_source(tmp_path / "bad")
    with (tmp_path / "bad" / "config.json").open("wb") as file:
        file.truncate(40_000_000)
    with pytest.raises(CheckpointError, match=r"larger than any config"):
        open_source(tmp_path / "bad")


def cached(cache: Path, repo: str, commit: str) -> Path:
    """The snapshot folder of a repository in a Hub cache, as the Hub client lays it out."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    folder = root / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert constants.HF_HUB_OFFLINE
    return tmp_path


def test_a_pipeline_in_the_hub_cache(cache: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    pipeline(cached(cache, "user/model", commit), prediction_type="epsilon")
    for address in ("hf://user/model", "user/model@main", f"https://huggingface.co/user/model/tree/{commit}"):
        opened = open_source(address)
        assert (opened.revision, opened.layout) == (commit, "diffusers-folder")
        assert opened.spec == str(HubAddress.parse(address))
        assert opened.address == HubAddress("user/model", commit)
        assert len(opened.tensors) == 686


def test_shards_and_single_files_in_the_hub_cache(cache: Path) -> None:
    shard(cached(cache, "user/shards", "a" * 40), GOOD_MAP)
    assert len(open_source("hf://user/shards").files) == 2
    folder = cached(cache, "user/single", "b" * 40)
    write_sparse(folder / "model.safetensors", {"model.diffusion_model.out.2.bias": (4,)})
    assert open_source("hf://user/single").layout == "ldm"
    write_sparse(folder / "model-pruned.safetensors", {"x": (1,)})
    with pytest.raises(
        CheckpointError,
        match=r"several models \(model-pruned.safetensors, model.safetensors\);"
        r" name one: hf://user/single/model-pruned.safetensors",
    ):
        open_source("hf://user/single")
    assert list(open_source("hf://user/single/model-pruned.safetensors").tensors) == ["x"]
    (cached(cache, "user/empty", "c" * 40) / "README.md").touch()
    with pytest.raises(CheckpointError, match=r"its snapshot in the local cache holds no UNet weights"):
        open_source("hf://user/empty")


def test_a_miss_offline_and_malformed_addresses(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not in the local cache, and the Hub cannot be reached"):
        open_source("hf://user/absent")
    with pytest.raises(
        CheckpointError, match=r"\n  Nor is there a file or folder user/absent on this machine"
    ):
        open_source("user/absent")
    for address in (
        "hf://model",
        "hf://user/model/file",
        "hf://../x",
        "hf://user/model@",
        "hf://user/model@a b",
    ):
        with pytest.raises(CheckpointError, match=r"not of the form hf://user/repo"):
            open_source(address)


def test_an_index_in_the_hub_cache_is_held_to_the_same_rules(cache: Path) -> None:
    folder = cached(cache, "user/evil", "d" * 40)
    shard(folder, {"down_blocks.1.weight": "../../../../secret.safetensors"})
    with pytest.raises(CheckpointError, match=r"is not the plain name"):
        open_source("hf://user/evil")
    assert json.loads((folder / f"{WEIGHTS}.safetensors.index.json").read_text())["weight_map"]
