"""The published code reads what linzoo writes, and linzoo reads what it writes; both compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle import Layer
from safetensors import safe_open
from tiny import self_attentions, tiny_sdxl_unet, tiny_unet, write_linfusion

import linzoo
from linzoo.attention.linfusion import LinFusion


@pytest.mark.parametrize("mid_dim", [None, 4, -1])
def test_computes_what_the_checkpoint_defines(tmp_path: Path, mid_dim: int | None) -> None:
    unet = tiny_unet()
    folder = write_linfusion(unet, tmp_path, mid_dim=mid_dim)
    handle = linzoo.load(unet, folder)
    for index, (name, layer) in enumerate(handle.modules.items()):
        want = Layer(folder, index)
        assert want.name == name
        x = torch.randn(2, 33, layer.to_q.in_features, generator=torch.Generator().manual_seed(index))
        assert np.abs(layer(x).numpy() - want(x.double().numpy())).max() <= 1e-6


def test_a_model_without_branches_doubles_its_input(tmp_path: Path) -> None:
    unet = tiny_unet()
    name, stock = next(iter(self_attentions(unet).items()))
    weights = {key: getattr(stock, key).weight.clone() for key in ("to_q", "to_k")}
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path, mid_dim=-1, of_teacher=True))
    x = torch.randn(1, 5, stock.to_q.in_features)
    seen = {}
    for key in weights:
        getattr(handle.modules[name], key).register_forward_hook(
            lambda module, args, out, key=key: seen.update({key: out})
        )
    handle.modules[name](x)
    for key, weight in weights.items():
        torch.testing.assert_close(seen[key], 2 * x @ weight.T)


@pytest.mark.parametrize("make_unet", [tiny_unet, tiny_sdxl_unet])
def test_saves_the_official_layout(tmp_path: Path, make_unet: object) -> None:
    unet = make_unet()
    given = write_linfusion(unet, tmp_path / "given", mid_dim=4)
    model = LinFusion.from_pretrained(given)
    model.save_pretrained(tmp_path / "saved")
    configs = [json.loads((tmp_path / each / "config.json").read_text()) for each in ("given", "saved")]
    assert configs[0]["modules_list"] == configs[1]["modules_list"]
    assert configs[1]["_class_name"] == "LinFusion"
    name = "diffusion_pytorch_model.safetensors"
    with (
        safe_open(tmp_path / "given" / name, "pt") as first,
        safe_open(tmp_path / "saved" / name, "pt") as second,
    ):
        names = sorted(first.keys())
        assert names == sorted(second.keys())
        assert len(names) == 17 * len(self_attentions(unet))
        for key in names:
            assert torch.equal(first.get_tensor(key), second.get_tensor(key))


def test_the_published_code_would_compute_what_is_mounted(tmp_path: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, write_linfusion(unet, tmp_path / "given"))
    with torch.enable_grad():
        layers = list(handle.modules.values())
        x = torch.randn(1, 9, layers[0].to_q.in_features)
        layers[0](x).square().mean().backward()
    with torch.no_grad():
        for parameter in handle.linfusion.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    handle.linfusion.save_pretrained(tmp_path / "trained")
    want = Layer(tmp_path / "trained", 0)(x.double().numpy())
    assert np.abs(layers[0](x).numpy() - want).max() <= 1e-6
    assert np.abs(Layer(tmp_path / "given", 0)(x.double().numpy()) - want).max() > 1e-4


def test_half_precision_checkpoints_load_into_the_unets_precision(tmp_path: Path) -> None:
    unet = tiny_unet()
    given = write_linfusion(unet, tmp_path / "given")
    LinFusion.from_pretrained(given, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    handle = linzoo.load(unet, tmp_path / "half")
    assert {parameter.dtype for parameter in handle.linfusion.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float32}
