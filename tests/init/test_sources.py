"""Sources of other forms give the same checkpoint: torch pickles, shards; and what is made can be mounted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.init.convert import convert
from tests.init.toys import contents, toy_config, toy_registry, toy_unet, write_folder, write_ldm

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    convert(write_ldm(folder / "a.safetensors", toy_unet()), folder / "out", registry=toy_registry())
    return contents(folder / "out")


@pytest.mark.parametrize("zipped", [True, False])
def test_ckpt(tmp_path: Path, expected: dict[str, bytes], zipped: bool) -> None:
    import torch

    keys = UNetKeyMap(toy_config())
    tensors = {LDM_PREFIX + keys.to_ldm(name): torch.from_numpy(array) for name, array in toy_unet().items()}
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": tensors, "global_step": 7}, path, _use_new_zipfile_serialization=zipped)
    convert(path, tmp_path / "out", registry=toy_registry())
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == expected[WEIGHTS]


def test_the_averaged_copy_is_left_alone_and_reported(tmp_path: Path, expected: dict[str, bytes]) -> None:
    keys = UNetKeyMap(toy_config())
    averaged = {
        "model_ema." + f"diffusion_model.{keys.to_ldm(name)}".replace(".", ""): array + 1
        for name, array in toy_unet().items()
    }
    source = write_ldm(tmp_path / "model.safetensors", toy_unet(), **averaged)
    result = convert(source, tmp_path / "out", registry=toy_registry())
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == expected[WEIGHTS]
    assert any("EMA" in problem for problem in result.plan.inspection.problems)


def test_shards(tmp_path: Path, expected: dict[str, bytes]) -> None:
    unet = toy_unet()
    folder = write_folder(tmp_path / "model", unet) / "unet"
    (folder / WEIGHTS).unlink()
    names = sorted(unet)
    shards = {"one-1.safetensors": names[::2], "two-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: unet[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    result = convert(tmp_path / "model", tmp_path / "out", registry=toy_registry())
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == expected[WEIGHTS]
    assert result.lock is not None
    assert set(result.lock["source"]["files"]) == {
        "unet/config.json", "unet/one-1.safetensors", "unet/two-2.safetensors",
    }  # fmt: skip


def test_the_result_is_mounted_and_computes_the_formula(tmp_path: Path) -> None:
    """From a diffusers UNet to a file and back: what is mounted is linear attention over the teacher's projections."""
    import torch
    from diffusers import UNet2DConditionModel

    from linzoo.attention.handle import load

    torch.manual_seed(0)
    config = {key: value for key, value in toy_config().items() if not key.startswith("_")}
    unet = UNet2DConditionModel(**config).eval()
    unet.save_pretrained(tmp_path / "unet")
    convert(
        tmp_path / "unet",
        tmp_path / "out",
        prediction_type="epsilon",
        plan="toy-narrow",
        registry=toy_registry(),
    )
    name = "mid_block.attentions.0.transformer_blocks.0.attn1"
    teacher = {key: value.numpy().copy() for key, value in unet.get_submodule(name).state_dict().items()}
    load(unet, tmp_path / "out", registry=toy_registry())
    x = torch.randn(2, 9, 64)
    with torch.no_grad():
        found = unet.get_submodule(name)(x).numpy()

    def heads(matrix: str) -> np.ndarray:
        return (
            (x.numpy() @ teacher[f"{matrix}.weight"].T).reshape(2, 9, 4, 16).swapaxes(1, 2).astype(np.float64)
        )

    q, k, v = (heads(each) for each in ("to_q", "to_k", "to_v"))
    q, k = (np.where(each > 0, each + 1, np.exp(each)) for each in (q, k))
    weights = q @ k.swapaxes(2, 3)
    joined = (weights @ v / (weights.sum(-1, keepdims=True) + 9e-4)).swapaxes(1, 2).reshape(2, 9, 64)
    expected = joined @ teacher["to_out.0.weight"].T + teacher["to_out.0.bias"]
    np.testing.assert_allclose(found, expected, atol=2e-6)
