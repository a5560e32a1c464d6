"""A UNet that is linear by itself computes what a mounted one computes, survives saving, and is never taken for softmax."""

from __future__ import annotations

import copy
import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counting import Calls
from diffusers import AutoModel, AutoPipelineForImage2Image, UNet2DConditionModel
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny import SD_SITES, draw, tiny_sd, tiny_sdxl_unet, tiny_unet, write_linfusion

import linzoo
from linzoo.attention.errors import MountError
from linzoo.attention.fold import fold
from linzoo.attention.mount import mounted_layers, unmount
from linzoo.attention.unet import LinearUNet
from linzoo.checkpoints.linear_unet import CLASS_NAME, CODE, MODULE_NAME, REFUSAL
from linzoo.errors import CheckpointError, UsageError

WEIGHTS = Path("linear.weights") / "diffusion_pytorch_model.safetensors"
LORA = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)


def mounted(folder: Path, unet: UNet2DConditionModel | None = None, **options: Any) -> UNet2DConditionModel:
    """A stock UNet with a random LinFusion checkpoint mounted in it."""
    unet = unet or tiny_unet()
    linzoo.load(unet, write_linfusion(unet, folder / "linfusion", **options))
    return unet


def linear_of(unet: UNet2DConditionModel, folder: Path) -> LinearUNet:
    """The same as a UNet that is linear by itself."""
    entries = json.loads((folder / "linfusion" / "config.json").read_text())["modules_list"]
    linear: LinearUNet = LinearUNet.from_config(dict(unet.config), modules_list=entries).eval()
    linear.load_state_dict(unet.state_dict(), strict=True)
    return linear


@pytest.fixture
def linear(tmp_path: Path) -> LinearUNet:
    return linear_of(mounted(tmp_path), tmp_path)


@pytest.fixture
def saved(linear: LinearUNet, tmp_path: Path) -> Path:
    linear.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def predict(unet: UNet2DConditionModel) -> torch.Tensor:
    """What a UNet computes from noise."""
    random = torch.Generator().manual_seed(3)
    sample = torch.randn(2, 4, 8, 8, generator=random).to(unet.dtype)
    text = torch.randn(2, 5, unet.config.cross_attention_dim, generator=random).to(unet.dtype)
    added = {"text_embeds": torch.ones(2, 32).to(unet.dtype), "time_ids": torch.ones(2, 6).to(unet.dtype)}
    output: torch.Tensor = unet(sample, 500, text, added_cond_kwargs=added).sample
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("mid_dim", [None, 8, -1])
@pytest.mark.parametrize("make", [tiny_unet, tiny_sdxl_unet])
def test_computes_what_a_mounted_unet_computes(
    tmp_path: Path, calls: Calls, make: Callable[[], UNet2DConditionModel], mid_dim: int | None
) -> None:
    stock = mounted(tmp_path, make(), mid_dim=mid_dim)
    linear = linear_of(stock, tmp_path)
    expected = predict(stock)
    output, linear_calls = calls.during(lambda: predict(linear))
    assert torch.equal(output, expected)
    assert linear_calls == len(mounted_layers(linear)) == len(mounted_layers(stock))


def test_a_folder_is_as_described_and_the_same_each_time(saved: Path, tmp_path: Path) -> None:
    assert set(contents(saved)) == {"config.json", f"{MODULE_NAME}.py", WEIGHTS.as_posix()}
    config = json.loads((saved / "config.json").read_text())
    assert config["_class_name"] == CLASS_NAME == LinearUNet.__name__
    assert config["quantization_config"] == {"quant_method": REFUSAL}
    assert len(config["modules_list"]) == SD_SITES
    assert "_name_or_path" not in config
    LinearUNet.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"low_cpu_mem_usage": False},
        {"device_map": "cpu"},
        {"output_loading_info": True},
    ],
    ids=str,
)
def test_survives_saving_and_loading(
    linear: LinearUNet, saved: Path, calls: Calls, options: dict[str, Any]
) -> None:
    loaded = LinearUNet.from_pretrained(saved.parent, subfolder="unet", **options)
    unet = loaded[0] if options.get("output_loading_info") else loaded
    output, linear_calls = calls.during(lambda: predict(unet))
    assert torch.equal(output, predict(linear))
    assert linear_calls == SD_SITES
    assert "quantization_config" not in unet.config
    assert dict(unet.config)["modules_list"] == dict(linear.config)["modules_list"]
    assert not unet.training


def test_survives_saving_in_shards_and_as_a_variant(linear: LinearUNet, tmp_path: Path) -> None:
    linear.save_pretrained(tmp_path / "unet", max_shard_size="200KB", variant="fp16")
    assert len(list((tmp_path / "unet" / "linear.weights").glob("*.fp16-0000?-of-*.safetensors"))) > 1
    loaded = LinearUNet.from_pretrained(tmp_path / "unet", variant="fp16")
    assert torch.equal(predict(loaded), predict(linear))


def test_takes_the_dtype_that_is_asked_for(saved: Path, tmp_path: Path) -> None:
    half = LinearUNet.from_pretrained(saved, dtype=torch.float16)
    expected = mounted(tmp_path, tiny_unet().to(torch.float16))
    assert {each.dtype for each in half.parameters()} == {torch.float16}
    assert torch.equal(predict(half), predict(expected))
    assert torch.equal(predict(half.to(torch.float64)), predict(expected.to(torch.float64)))


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_a_stock_class_refuses_it_and_says_what_to_do(saved: Path, low_cpu_mem_usage: bool) -> None:
    for place, subfolder in ((saved, None), (saved.parent, "unet")):
        with pytest.raises(ValueError, match=re.escape(REFUSAL)):
            UNet2DConditionModel.from_pretrained(
                place, subfolder=subfolder, low_cpu_mem_usage=low_cpu_mem_usage
            )
        with pytest.raises(ValueError, match="LinearUNet"):
            AutoModel.from_pretrained(place, subfolder=subfolder, low_cpu_mem_usage=low_cpu_mem_usage)


def test_what_reads_weights_and_no_config_finds_none(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    del config["quantization_config"]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(OSError, match="no file named diffusion_pytorch_model"):
        UNet2DConditionModel.from_pretrained(saved)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("conv_in.weight"), r"1 missing keys in .* \(such as conv_in\.weight\)"),
        (lambda t: [t.pop(name) for name in list(t) if ".to_q_." in name], "24 missing keys"),
        (lambda t: t.update(more=torch.zeros(1)), r"1 unexpected keys in .* \(such as more\)"),
    ],
)
@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_damaged_weights_are_told(
    saved: Path, low_cpu_mem_usage: bool, damage: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    tensors = load_file(saved / WEIGHTS)
    damage(tensors)
    save_file(tensors, saved / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        LinearUNet.from_pretrained(saved, low_cpu_mem_usage=low_cpu_mem_usage)


def test_a_damaged_config_is_told(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["modules_list"][0]["heads"] = 2
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(MountError, match="has 4 heads in this UNet, but 2 in the checkpoint"):
        LinearUNet.from_pretrained(saved)


def test_there_is_no_teacher_to_give_back(linear: LinearUNet, tmp_path: Path) -> None:
    before = predict(linear)
    for attempt in (
        lambda: linzoo.load(linear, tmp_path / "linfusion"),
        lambda: unmount(linear),
        lambda: unmount(linear, [next(iter(mounted_layers(linear)))]),
    ):
        with pytest.raises(MountError, match="linear already, and for good"):
            attempt()
    assert torch.equal(predict(linear), before)


def test_folds_and_saves_the_same_bytes(saved: Path, tmp_path: Path, calls: Calls) -> None:
    linear = LinearUNet.from_pretrained(saved)
    before = predict(linear)
    fold(mounted_layers(linear))
    after, linear_calls = calls.during(lambda: predict(linear))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert linear_calls == SD_SITES
    linear.save_pretrained(tmp_path / "folded")
    assert contents(tmp_path / "folded") == contents(saved)


def test_copies_and_pickles(linear: LinearUNet) -> None:
    expected = predict(linear)
    assert torch.equal(predict(copy.deepcopy(linear)), expected)
    assert torch.equal(predict(pickle.loads(pickle.dumps(linear))), expected)


def test_a_lora_does_what_it_does_on_a_mounted_unet(tmp_path: Path) -> None:
    stock = mounted(tmp_path)
    linear = linear_of(stock, tmp_path)
    plain = predict(stock)
    for unet in (stock, linear):
        torch.manual_seed(5)
        unet.add_adapter(LORA, "a")
    assert torch.equal(predict(linear), predict(stock))
    for unet in (stock, linear):
        unet.set_adapters("a", {"down": 0.9, "mid": 0.1, "up": 0.5})
    by_block = predict(linear)
    assert torch.equal(by_block, predict(stock))
    for unet in (stock, linear):
        unet.fuse_lora()
        unet.unload_lora()
    linear.save_pretrained(tmp_path / "fused")
    fused = predict(LinearUNet.from_pretrained(tmp_path / "fused"))
    torch.testing.assert_close(fused, by_block, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused, plain, atol=1e-3)


def test_stands_in_pipelines(linear: LinearUNet, calls: Calls) -> None:
    pipe = tiny_sd(unet=linear)
    assert pipe.config["unet"] == (MODULE_NAME, CLASS_NAME)
    assert calls.during(lambda: draw(pipe))[1] == 2 * SD_SITES
    assert AutoPipelineForImage2Image.from_pipe(pipe).unet is linear


def test_a_part_of_the_folder_is_not_pushed(linear: LinearUNet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="push_to_hub"):
        linear.save_pretrained(tmp_path / "unet", push_to_hub=True)
    assert not (tmp_path / "unet").exists()


def test_the_shipped_module_without_linzoo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "linzoo.attention.unet", None)
    with pytest.raises(ImportError, match="linear attention, which linzoo computes: pip install linzoo"):
        exec(compile(CODE, "shipped", "exec"), {"__name__": MODULE_NAME})


def test_the_shipped_module_has_the_class() -> None:
    namespace: dict[str, Any] = {"__name__": MODULE_NAME}
    exec(compile(CODE, "shipped", "exec"), namespace)
    assert namespace[CLASS_NAME] is LinearUNet
