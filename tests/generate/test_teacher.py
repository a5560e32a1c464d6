"""The loader of last resort: folders and single files become pipelines, or an error says what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from linzoo_recipes.mini.export import export_single_file, export_unet_file, prefixed_text
from safetensors.torch import load_file, save, save_file
from tiny import draw, tiny_sd, tiny_unet

from linzoo.checkpoints.detection import inspect
from linzoo.errors import CheckpointError
from linzoo.plugin import TeacherRequest
from linzoo.registry import Registry, build_registry
from linzoo.testing.fake_hub import FakeHub


def load(source: str | Path, zoo: Registry, **changes: str) -> object:
    found = inspect(source, registry=zoo, variant="tiny", prediction_type="epsilon")
    variant, prediction_type = found.require()
    request = TeacherRequest(
        source=str(source),
        path=found.checkpoint.path,
        variant=variant,
        prediction_type=prediction_type,
        **changes,
    )
    pipe = zoo.load_teacher(request).pipeline
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_folder_draws_what_was_saved(zoo: Registry) -> None:
    assert torch.equal(draw(load("tiny", zoo)), draw(tiny_sd()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_sd().save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


def test_a_single_file_draws_what_its_folder_draws(zoo: Registry, folder: Path, tmp_path: Path) -> None:
    weights = folder / "text_encoder" / "model.safetensors"
    save_file(prefixed_text(load_file(weights)), weights, metadata={"format": "pt"})
    export_single_file(folder, tmp_path / "model.safetensors")
    assert torch.equal(draw(load(tmp_path / "model.safetensors", zoo)), draw(tiny_sd()))


def test_a_unet_file_takes_the_other_networks_from_what_its_variant_ships(
    zoo: Registry, tmp_path: Path
) -> None:
    unet = tiny_unet(seed=1).half()
    export_unet_file(unet, tmp_path / "unet.safetensors")
    want = tiny_sd(unet=unet.float())
    assert torch.equal(draw(load(tmp_path / "unet.safetensors", zoo)), draw(want))
    assert not torch.equal(draw(want), draw(tiny_sd()))


def test_a_unet_file_of_a_variant_that_ships_no_weights_cannot_draw(tmp_path: Path) -> None:
    registry = build_registry(entry_points=False, env={})
    (tmp_path / "unet.safetensors").write_bytes(save({"model.diffusion_model.x": torch.zeros(1)}))
    request = TeacherRequest(
        source="unet.safetensors",
        path=tmp_path / "unet.safetensors",
        variant=registry.variants.get_value("sd15"),
        prediction_type="epsilon",
    )
    with pytest.raises(CheckpointError, match="holds a UNet alone"):
        registry.load_teacher(request)


def test_the_precision_is_the_one_asked_for(zoo: Registry) -> None:
    pipe = load("tiny", zoo, dtype="bfloat16")
    assert {part.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.bfloat16}


def test_a_folder_of_half_precision_files_is_read(zoo: Registry, tmp_path: Path) -> None:
    tiny_sd().to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    pipe = load(tmp_path / "half", zoo)
    assert pipe.unet.dtype == torch.float32
    assert all(torch.isfinite(parameter).all() for parameter in pipe.unet.parameters())


@pytest.mark.parametrize(("shard", "count"), [("10GB", 1), ("200KB", 10)])
def test_a_repository_of_half_precision_files_is_read_here_and_on_the_hub(
    shard: str, count: int, zoo: Registry, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    tiny_sd().to(torch.float16).save_pretrained(half, variant="fp16", max_shard_size=shard)
    assert len(list((half / "unet").glob("*.fp16*.safetensors"))) == count
    here = load(half, zoo)
    with FakeHub() as hub, hub.client(tmp_path / "home"):
        files = {each.relative_to(half).as_posix(): each for each in half.rglob("*") if each.is_file()}
        commit = hub.put("tester/half", files)
        hub.put("tester/half", {"unet/config.json": b"{}"})
        assert torch.equal(draw(load(f"hf://tester/half@{commit}", zoo)), draw(here))


def test_a_missing_tokenizer_is_noticed(zoo: Registry, folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer"):
        load(folder, zoo)


def test_a_tokenizer_of_another_model_is_noticed(zoo: Registry, tmp_path: Path) -> None:
    pipe = tiny_sd()
    pipe.tokenizer.add_tokens(["<extra>"])
    pipe.save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError, match="knows 191 words, but its text encoder 190"):
        load(tmp_path / "model", zoo)


def test_a_unet_alone_cannot_draw(zoo: Registry, tmp_path: Path) -> None:
    tiny_sd().unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(CheckpointError, match=r"holds one component and not a pipeline"):
        load(tmp_path / "unet", zoo)


def test_an_incomplete_pipeline_is_refused_in_diffusers_words(zoo: Registry, folder: Path) -> None:
    shutil.rmtree(folder / "vae")
    with pytest.raises(CheckpointError, match=r"(?s)diffusers cannot build a pipeline.*linzoo inspect"):
        load(folder, zoo)


def test_the_schedulers_prediction_type_reaches_the_config(zoo: Registry) -> None:
    from linzoo.checkpoints.components import component_folder

    variant = zoo.variants.get_value("tiny")
    with component_folder(variant, "v_prediction") as folder:
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction"
