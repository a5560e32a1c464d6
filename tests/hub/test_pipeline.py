"""The format ``pipeline``: what is written, that diffusers alone loads it from the Hub, and that it survives saving."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from linzoo_recipes.mini.export import export_single_file
from pushing import put_teacher
from safetensors.torch import load_file, save_file

import linzoo
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.linear_unet import CLASS_NAME, MODULE_NAME, REFUSAL
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.hub.pipeline import write_pipeline
from linzoo.registry import Registry
from linzoo.testing.fake_hub import FakeHub

REPO = "tester/emoji-linear"
UNET_WEIGHTS = "unet/linear.weights/diffusion_pytorch_model.safetensors"
SHARD = 10**10

STRANGER = """
import sys
import torch
from diffusers import DiffusionPipeline

place, saved, output = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(place, trust_remote_code=True)
generator = torch.Generator().manual_seed(0)
sample, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 9, 128, generator=generator)
with torch.no_grad():
    torch.save(pipe.unet(sample, 500, text).sample, output)
pipe.save_pretrained(saved, max_shard_size="3MB")
"""


@pytest.fixture(scope="module")
def mini(registry: Registry) -> Inspection:
    return linzoo.inspect("mini", registry=registry)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, mini: Inspection, registry: Registry) -> Path:
    """Mini's pipeline with its published LinFusion weights."""
    out = tmp_path_factory.mktemp("pipeline") / "mini"
    write(mini, out, registry)
    return out


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A copy of mini that may be changed."""
    return Path(shutil.copytree(open_source("mini").path, tmp_path / "teacher"))


def write(teacher: Inspection, out: Path, registry: Registry, linfusion: Any = "mini-linfusion") -> None:
    write_pipeline(teacher, linfusion, out, registry=registry, max_shard_bytes=SHARD)


@pytest.fixture
def code_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of their own for the modules that pipelines bring along."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): digest(path).sha256
        for path in folder.rglob("*")
        if path.is_file()
    }


def put(hub: FakeHub, folder: Path, repo: str = REPO) -> str:
    return hub.put(
        repo, {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    )


def test_a_folder_holds_the_teacher_but_for_its_self_attention(pipeline: Path) -> None:
    source, written = digests(open_source("mini").path), digests(pipeline)
    own = {"model_index.json", "unet/config.json", f"unet/{MODULE_NAME}.py", UNET_WEIGHTS}
    assert set(written) - own == {name for name in source if not name.startswith(("unet/", "model_index"))}
    assert all(written[name] == source[name] for name in set(written) - own)
    index = json.loads((pipeline / "model_index.json").read_text())
    assert index["unet"] == [MODULE_NAME, CLASS_NAME]
    assert "_name_or_path" not in index


def test_every_tensor_has_the_bits_and_dtype_of_where_it_comes_from(
    teacher: Path, tmp_path: Path, registry: Registry
) -> None:
    weights = teacher / "unet" / "diffusion_pytorch_model.safetensors"
    old = {name: tensor.float() for name, tensor in load_file(weights).items()}
    save_file(old, weights, metadata={"format": "pt"})
    write(linzoo.inspect(teacher, registry=registry), tmp_path / "out", registry)
    merged = load_file(tmp_path / "out" / UNET_WEIGHTS)
    folder = open_source("mini-linfusion").path
    modules = json.loads((folder / "config.json").read_text())["modules_list"]
    linear = load_file(folder / "diffusion_pytorch_model.safetensors")
    for name, tensor in linear.items():
        place, _, rest = name.partition(".")
        found = merged.pop(f"{modules[int(place)]['module_name']}.{rest}")
        assert found.dtype == tensor.dtype == torch.float16
        assert torch.equal(found, tensor)
    replaced = tuple(module["module_name"] + "." for module in modules)
    kept = {name: tensor for name, tensor in old.items() if not name.startswith(replaced)}
    assert merged.keys() == kept.keys()
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    assert all(torch.equal(merged[name], tensor) for name, tensor in kept.items())


def test_the_same_input_gives_the_same_bytes(
    pipeline: Path, mini: Inspection, tmp_path: Path, registry: Registry
) -> None:
    write(mini, tmp_path / "again", registry)
    assert digests(tmp_path / "again") == digests(pipeline)


def test_large_weights_lie_in_shards(mini: Inspection, tmp_path: Path, registry: Registry) -> None:
    write_pipeline(mini, "mini-linfusion", tmp_path / "out", registry=registry, max_shard_bytes=2_000_000)
    folder = tmp_path / "out" / "unet" / "linear.weights"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert all((folder / shard).stat().st_size < 2_100_000 for shard in shards)
    assert linzoo.inspect(tmp_path / "out", registry=registry).checkpoint.tensors.keys() == set(
        index["weight_map"]
    )


def test_a_stranger_loads_saves_and_loads_again(
    hub: FakeHub, pipeline: Path, tmp_path: Path, registry: Registry
) -> None:
    put(hub, pipeline)
    environment = {**os.environ, **hub.environment(tmp_path / "stranger"), "PYTHONWARNINGS": "ignore"}
    places = [REPO, str(tmp_path / "saved-0"), str(tmp_path / "saved-1")]
    outputs = []
    for number, place in enumerate(places[:2]):
        output = tmp_path / f"output-{number}.pt"
        command = [sys.executable, "-c", STRANGER, place, places[number + 1], str(output)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(torch.load(output, weights_only=True))
    pipe = DiffusionPipeline.from_pretrained(open_source("mini").path)
    linzoo.load(pipe, "mini-linfusion", registry=registry)
    generator = torch.Generator().manual_seed(0)
    sample, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 9, 128, generator=generator)
    with torch.no_grad():
        expected = pipe.unet(sample, 500, text).sample
    assert all(torch.equal(output, expected) for output in outputs)
    first, second = (digests(Path(place) / "unet") for place in places[1:])
    assert first == second
    assert first["config.json"] == digests(pipeline / "unet")["config.json"]
    assert len([name for name in first if name.endswith(".safetensors")]) > 1


@pytest.mark.usefixtures("code_cache")
def test_a_variant_of_the_pipeline_finds_its_unet(hub: FakeHub, pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`variant=fp16`, but no such modeling files"):
        DiffusionPipeline.from_pretrained(pipeline, trust_remote_code=True, variant="fp16")
    pipe = DiffusionPipeline.from_pretrained(pipeline, trust_remote_code=True, dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half", variant="fp16")
    put(hub, tmp_path / "half")
    for place in (tmp_path / "half", REPO):
        half = DiffusionPipeline.from_pretrained(
            place, trust_remote_code=True, variant="fp16", dtype=torch.float16
        )
        ours, theirs = half.unet.state_dict(), pipe.unet.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        assert half.vae.dtype == torch.float16


def test_who_does_not_trust_the_code_is_told(hub: FakeHub, pipeline: Path) -> None:
    put(hub, pipeline)
    for place in (REPO, pipeline):
        with pytest.raises(ValueError, match=f"custom code in {MODULE_NAME}.py"):
            DiffusionPipeline.from_pretrained(place)


@pytest.mark.filterwarnings("ignore:The `local_dir_use_symlinks` argument")  # diffusers passes it
def test_a_stock_unet_fetches_no_weights_from_the_hub(hub: FakeHub, pipeline: Path) -> None:
    put(hub, pipeline)
    with pytest.raises(ValueError, match="self-attention of this UNet is linear"):
        UNet2DConditionModel.from_pretrained(REPO, subfolder="unet")
    assert REFUSAL in json.loads(hub.read(REPO, "unet/config.json"))["quantization_config"]["quant_method"]
    assert not [request for request in hub.requests if ".safetensors" in request.path]


def test_inspect_names_it_here_and_on_the_hub(hub: FakeHub, pipeline: Path, registry: Registry) -> None:
    put(hub, pipeline)
    for place in (pipeline, pipeline / "unet", f"hf://{REPO}"):
        found = linzoo.inspect(place, registry=registry, fetch_weights=False)
        assert (found.kind, found.variant, found.confidence) == ("linear-unet", None, "high")
        assert found.name == "a UNet with LinFusion attention merged into it"


def test_linzoo_does_not_take_it_for_a_teacher(pipeline: Path, tmp_path: Path, registry: Registry) -> None:
    for variant, said in (("mini", "not the 'mini' that --variant says"), (None, "it is linear already")):
        with pytest.raises(CheckpointError, match=said):
            linzoo.convert(pipeline, tmp_path / "out", variant=variant, registry=registry)
    assert not any(tmp_path.iterdir())


def test_what_is_missing_of_a_teacher_on_the_hub_is_fetched_at_its_commit(
    hub: FakeHub, pipeline: Path, tmp_path: Path, registry: Registry
) -> None:
    put_teacher(hub, repo="artist/emoji")
    found = linzoo.inspect("hf://artist/emoji", registry=registry)
    hub.put("artist/emoji", {"vae/diffusion_pytorch_model.safetensors": b"another one"})
    write(found, tmp_path / "out", registry)
    assert digests(tmp_path / "out") == digests(pipeline)


def test_components_in_other_forms_get_the_usual_ones(
    teacher: Path, tmp_path: Path, registry: Registry
) -> None:
    vae, text = teacher / "vae", teacher / "text_encoder"
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.fp16.safetensors")
    words = load_file(text / "model.safetensors")
    torch.save(words, text / "pytorch_model.bin")
    (text / "model.safetensors").unlink()
    (text / "model.onnx").write_bytes(b"something else")
    config = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps({**config, "_name_or_path": "/home/somebody/models"}))
    write(linzoo.inspect(teacher, registry=registry), tmp_path / "out", registry)
    out = tmp_path / "out"
    assert {path.name for path in (out / "vae").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
    assert {path.name for path in (out / "text_encoder").iterdir()} == {"config.json", "model.safetensors"}
    written = load_file(out / "text_encoder" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in words.items())
    assert json.loads((out / "text_encoder" / "config.json").read_text()) == config


def test_a_component_that_is_missing_is_named(teacher: Path, tmp_path: Path, registry: Registry) -> None:
    index = json.loads((teacher / "model_index.json").read_text())
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (teacher / "model_index.json").write_text(json.dumps(index | checker))
    with pytest.raises(
        CheckpointError, match=r"model_index\.json names 'safety_checker', which is not there; get it"
    ):
        write(linzoo.inspect(teacher, registry=registry), tmp_path / "out", registry)
    assert not (tmp_path / "out").exists()
    (teacher / "model_index.json").write_text(json.dumps(index | {"safety_checker": [None, None]}))
    write(linzoo.inspect(teacher, registry=registry), tmp_path / "out", registry)
    assert not (tmp_path / "out" / "safety_checker").exists()


@pytest.mark.parametrize("single", [False, True])
def test_room_is_looked_for_first(
    single: bool,
    pipeline: Path,
    teacher: Path,
    tmp_path: Path,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = sum(tensor.nbytes for tensor in load_file(pipeline / UNET_WEIGHTS).values())
    if single:
        source = tmp_path / "mini.safetensors"
        export_single_file(teacher, source)
        parts = linzoo.inspect(source, registry=registry).components
        needed += parts["vae"].nbytes + parts["text_encoder"].nbytes
    else:
        source = teacher
        files = [path for path in pipeline.glob("*/*") if path.is_file() and path.parent.name != "unet"]
        needed += sum(path.stat().st_size for path in files)
    found = linzoo.inspect(source, registry=registry)
    before = sorted(tmp_path.iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(CheckpointError, match=f"{needed:,} bytes are needed and {needed - 1:,} are free"):
        write(found, tmp_path / "out", registry)
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed))
    write(found, tmp_path / "out", registry)


def test_a_single_file_becomes_a_folder(
    pipeline: Path, tmp_path: Path, registry: Registry, mini: Inspection
) -> None:
    """Mini's UNet alone, which takes the other components from what its variant ships."""
    file = tmp_path / "mini.safetensors"
    shutil.copyfile(mini.checkpoint.files[0], file)
    write(linzoo.inspect(file, registry=registry), tmp_path / "out", registry)
    assert digests(tmp_path / "out")[UNET_WEIGHTS] == digests(pipeline)[UNET_WEIGHTS]
    for weights in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        ours, theirs = load_file(tmp_path / "out" / weights), load_file(pipeline / weights)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index == json.loads((pipeline / "model_index.json").read_text())
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "out").glob("*/*.json"))


def test_a_unet_alone_is_no_pipeline(mini: Inspection, tmp_path: Path, registry: Registry) -> None:
    unet = linzoo.inspect(mini.checkpoint.path / "unet", registry=registry)
    with pytest.raises(CheckpointError, match="holds a UNet and no pipeline"):
        write(unet, tmp_path / "out", registry)
    assert not any(tmp_path.iterdir())


def test_code_of_its_own_is_not_published(teacher: Path, tmp_path: Path, registry: Registry) -> None:
    index = json.loads((teacher / "model_index.json").read_text())
    (teacher / "model_index.json").write_text(json.dumps({**index, "_class_name": ["mine", "Pipeline"]}))
    with pytest.raises(CheckpointError, match="code of its own"):
        write(linzoo.inspect(teacher, registry=registry), tmp_path / "out", registry)


def test_weights_in_an_unknown_form_are_told(teacher: Path, tmp_path: Path, registry: Registry) -> None:
    (teacher / "vae" / "diffusion_pytorch_model.safetensors").rename(teacher / "vae" / "flax_model.msgpack")
    with pytest.raises(CheckpointError, match=r"vae: holds its weights as flax_model\.msgpack"):
        write(linzoo.inspect(teacher, registry=registry), tmp_path / "out", registry)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_does_not_fit_is_told(mini: Inspection, tmp_path: Path, registry: Registry) -> None:
    folder = Path(shutil.copytree(open_source("mini-linfusion").path, tmp_path / "linfusion"))
    config = json.loads((folder / "config.json").read_text())
    config["modules_list"][0]["module_name"] = "mid_block.attentions.7.transformer_blocks.0.attn1"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"attentions\.7.* the teacher has no such self-attention"):
        write(mini, tmp_path / "out", registry, folder)
    config["modules_list"].pop()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"17 tensors are not announced by config\.json"):
        write(mini, tmp_path / "out", registry, folder)


def test_a_full_disk_leaves_nothing(
    mini: Inspection, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for step in ("linzoo.hub.components.shutil.copyfile", "linzoo.hub.pipeline.write_beside_weights"):
        with monkeypatch.context() as patch:
            patch.setattr(step, full)
            with pytest.raises(CheckpointError, match="No space left"):
                write(mini, tmp_path / "out", registry)
        assert not any(tmp_path.iterdir())
