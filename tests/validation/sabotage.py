"""Ways to spoil a LinFusion checkpoint, each as it happens to people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from linzoo.checkpoints.linfusion import CONFIG_NAME, WEIGHTS_NAME
from linzoo.checkpoints.lock import LOCK_NAME

Tensors = dict[str, Tensor]


def copy_of(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(checkpoint, folder))


def rewrite(folder: Path, change: Callable[[Tensors], None]) -> None:
    """Change the weights; their types stay."""
    tensors = load_file(folder / WEIGHTS_NAME)
    before = {name: tensor.dtype for name, tensor in tensors.items()}
    change(tensors)
    kept = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(kept, folder / WEIGHTS_NAME, {"format": "pt"})
    assert all(before.get(name, tensor.dtype) is not None for name, tensor in kept.items())


def rewrite_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file."""
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_config(folder: Path, change: Callable[[Any], None]) -> None:
    """Change ``config.json``."""
    rewrite_json(folder / CONFIG_NAME, change)


def edit_lock(folder: Path, change: Callable[[Any], None]) -> None:
    """Change the lock file."""
    rewrite_json(folder / LOCK_NAME, change)


def layer_names(folder: Path) -> list[str]:
    """The replaced modules in the checkpoint's order."""
    return [each["module_name"] for each in json.loads((folder / CONFIG_NAME).read_text())["modules_list"]]


def zero(layer: int) -> Callable[[Tensors], None]:
    """A layer whose weights were never loaded."""

    def change(tensors: Tensors) -> None:
        for name in of(layer, tensors):
            tensors[name].zero_()

    return change


def swap_q_and_k(layer: int) -> Callable[[Tensors], None]:
    """Queries and keys mixed up in a conversion of names."""

    def change(tensors: Tensors) -> None:
        for name in of(layer, tensors):
            other = name.replace(".to_q", ".to_k")
            if other != name:
                tensors[name], tensors[other] = tensors[other], tensors[name]

    return change


def permute(one: int, other: int) -> Callable[[Tensors], None]:
    """Two layers of one shape in each other's place."""

    def change(tensors: Tensors) -> None:
        for name in of(one, tensors):
            twin = f"{other}.{name.partition('.')[2]}"
            tensors[name], tensors[twin] = tensors[twin], tensors[name]

    return change


def randomize(layer: int) -> Callable[[Tensors], None]:
    """A layer that was initialised and not trained."""

    def change(tensors: Tensors) -> None:
        generator = torch.Generator().manual_seed(0)
        for name in of(layer, tensors):
            if tensors[name].ndim == 2:
                noise = torch.randn(tensors[name].shape, generator=generator)
                tensors[name] = (noise * tensors[name].float().std()).to(tensors[name].dtype)

    return change


def scale(name: str, factor: float) -> Callable[[Tensors], None]:
    """One tensor of another scale."""

    def change(tensors: Tensors) -> None:
        tensors[name] *= factor

    return change


def put(name: str, value: float) -> Callable[[Tensors], None]:
    """One number of one tensor replaced."""

    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[3] = value

    return change


def cast(name: str, dtype: torch.dtype) -> Callable[[Tensors], None]:
    """One tensor in another precision."""

    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].to(dtype)

    return change


def of(layer: int, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of a layer's tensors."""
    return [name for name in tensors if name.startswith(f"{layer}.")]
