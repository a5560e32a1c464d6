"""Reading a LinFusion checkpoint: whole and as declared, or an error that names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SD_SITES, self_attentions, tiny_unet, write_linfusion

import linzoo
from linzoo.attention.handle import read_linfusion
from linzoo.errors import CheckpointError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_linfusion(tiny_unet(), tmp_path / "linfusion")


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def edit_config(folder: Path, edit: Callable[[list[dict[str, object]]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config["modules_list"])
    (folder / "config.json").write_text(json.dumps(config))


def test_reads_all_tensors(folder: Path) -> None:
    model = read_linfusion(folder)
    stored = load_file(folder / WEIGHTS)
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == {
        name: tensor.dtype for name, tensor in stored.items()
    }
    assert all(torch.equal(tensor, stored[name]) for name, tensor in model.state_dict().items())
    assert [entry.module_name for entry in model.entries] == list(self_attentions(tiny_unet()))
    assert not model.training


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: edit_tensors(folder, lambda t: [t.pop(f"1.to_{x}.weight") for x in "qkv"]),
            r"3 of 68 tensors are missing \(1\.to_q\.weight, 1\.to_k\.weight, 1\.to_v\.weight\)",
        ),
        (
            lambda folder: edit_tensors(folder, lambda t: t.update({"9.to_q.weight": torch.zeros(1)})),
            r"1 of 68 tensors are not announced by config\.json \(9\.to_q\.weight\)",
        ),
        (
            lambda folder: edit_tensors(folder, lambda t: t.update({"0.to_q.weight": torch.zeros(2, 2)})),
            r"1 of 68 tensors are of another shape than config\.json says \(0\.to_q\.weight\)",
        ),
        (
            lambda folder: edit_tensors(
                folder, lambda t: t.update({"0.to_q.weight": torch.zeros(32, 32, dtype=torch.int8)})
            ),
            r"not floating-point numbers \(0\.to_q\.weight\)",
        ),
        (
            lambda folder: edit_config(folder, lambda entries: entries.pop()),
            r"17 of 51 tensors are not announced by config\.json \(3\.to_k\.weight, .*\.\.\.\)",
        ),
        (lambda folder: edit_config(folder, lambda entries: entries[0].update(dim_n=31)), "dim_n|heads"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no weights"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json"),
        (
            lambda folder: (folder / "config.json").write_text('{"_class_name": "X"}'),
            "no LinFusion checkpoint",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
            "truncated|shorter|ends",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_mounted(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    unet = tiny_unet()
    before = list(unet.state_dict())
    with pytest.raises(CheckpointError, match=message):
        linzoo.load(unet, folder)
    assert list(unet.state_dict()) == before


def test_a_wrong_path_and_an_unreachable_repository_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        linzoo.load(tiny_unet(), tmp_path / "nothing")
    both = r"(?s)hf://nobody/nothing: .*not in the local cache.*no.* file or folder nobody/nothing on this machine"
    with pytest.raises(CheckpointError, match=both):
        linzoo.load(tiny_unet(), "nobody/nothing")
    with pytest.raises(CheckpointError, match=r"hf://nobody/nothing: .*not in the local cache") as caught:
        linzoo.load(tiny_unet(), "hf://nobody/nothing")
    assert "on this machine" not in str(caught.value)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: one file, and a LinFusion checkpoint is a folder"
    ):
        linzoo.load(tiny_unet(), folder / WEIGHTS)


def test_the_handle_tells_what_is_mounted(folder: Path) -> None:
    unet = tiny_unet()
    handle = linzoo.load(unet, folder)
    assert repr(handle) == f"<linzoo.Handle {folder}: {SD_SITES} layers linear in UNet2DConditionModel>"
    assert list(handle.modules) == list(self_attentions(unet))
    handle.unload()
    assert "unloaded" in repr(handle)


def test_a_plan_that_keeps_a_layer_leaves_it_softmax(folder: Path) -> None:
    edit_config(folder, lambda entries: entries.pop())
    edit_tensors(folder, lambda t: [t.pop(name) for name in list(t) if name.startswith("3.")])
    unet = tiny_unet()
    handle = linzoo.load(unet, folder)
    assert len(handle.modules) == SD_SITES - 1
    assert type(unet.mid_block.attentions[0].transformer_blocks[0].attn1).__name__ == "Attention"


def test_an_unknown_mixer_is_named(folder: Path) -> None:
    edit_config(folder, lambda entries: entries[0].update(mixer="mamba9"))
    with pytest.raises(linzoo.LinzooError, match="mamba9"):
        linzoo.load(tiny_unet(), folder)
