"""A teacher with other weights than those that a checkpoint was made for is remarked on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import linzoo
from linzoo.checkpoints.kinship import other_weights
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.source import open_source
from linzoo.registry import build_registry

REGISTRY = build_registry(entry_points=False)


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    linzoo.convert("mini-3d", tmp_path / "linfusion", registry=REGISTRY)
    return tmp_path / "linfusion"


def note(linfusion: Path | str, teacher: str) -> str:
    found = linzoo.inspect(teacher, registry=REGISTRY)
    opened, _ = open_linfusion(linfusion, registry=REGISTRY)
    return other_weights(opened, found, REGISTRY)


def test_its_own_teacher_is_passed_over_and_another_is_told(converted: Path) -> None:
    assert note(converted, "mini-3d") == ""
    assert note("mini-linfusion", "mini") == ""
    assert note(converted, "mini") == (
        f"{converted} was made for mini-3d (base hash 456dd61475ecdc04), and mini has other weights (cff95565d8ee50dc)"
    )


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"repo": "hf://user/tune", "commit": "0123"}, "hf://user/tune@0123"),
        ({"files": {"tune.safetensors": {"bytes": 1, "sha256": "00"}}}, "tune.safetensors"),
        ({"files": {"a": {"bytes": 1, "sha256": "00"}, "b": {"bytes": 1, "sha256": "00"}}}, "a local folder"),
    ],
)
def test_how_the_other_is_named(converted: Path, source: dict[str, object], named: str) -> None:
    lock = json.loads((converted / "linzoo.lock.json").read_text())
    lock["source"] |= source
    (converted / "linzoo.lock.json").write_text(json.dumps(lock))
    assert f"was made for {named} (base hash 456dd61475ecdc04)" in note(converted, "mini")


def test_nothing_is_said_where_nothing_is_known(converted: Path) -> None:
    path = converted / "linzoo.lock.json"
    lock = json.loads(path.read_text())
    lock["distill"] = {
        "teacher": {"other.safetensors": "00"}
    }  # distilled by another, which is known by its file alone
    path.write_text(json.dumps(lock))
    assert note(converted, "mini") == ""
    for damaged in ("{", '{"lock_version": 99, "outputs": {}}'):
        path.write_text(damaged)
        assert note(converted, "mini") == ""
    path.unlink()
    assert note(converted, "mini") == ""


def test_nothing_is_said_of_bfloat16_which_may_be_the_same_model_rounded(tmp_path: Path) -> None:
    mini = open_source("mini", registry=REGISTRY).path
    rounded = Path(shutil.copytree(mini, tmp_path / "rounded"))
    weights = rounded / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: each.to(torch.bfloat16) for name, each in load_file(weights).items()}, weights)
    assert note("mini-linfusion", str(rounded)) == ""
    linzoo.convert(rounded, tmp_path / "linfusion", registry=REGISTRY)
    assert note(tmp_path / "linfusion", "mini") == ""
