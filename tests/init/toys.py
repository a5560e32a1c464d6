"""Checkpoints of the toy variants, made with numpy and the safetensors library alone."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.registry import Registry, build_registry

Arrays = dict[str, np.ndarray]

ATTENTION = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias")


@cache
def toy_registry() -> Registry:
    """The built-in mixers and init recipes, and the toy variants."""
    return build_registry(builtins=("linzoo_mixers", "tests.init.toyzoo"), entry_points=False, env={})


def toy_config(variant: str = "toy") -> dict[str, Any]:
    return component_config(toy_registry().variants.get_value(variant), "unet")


def toy_unet(variant: str = "toy", seed: int = 0, dtype: Any = np.float16) -> Arrays:
    """Random weights of a whole toy UNet, by diffusers name."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape, np.float32) / np.sqrt(max(shape[-1], 1))).astype(dtype)
        for name, shape in unet_manifest(toy_config(variant)).items()
    }


def tuned(unet: Arrays, amount: float = 0.04, seed: int = 1) -> Arrays:
    """A fine-tune as LoRA training merges it: low-rank changes of the matrices, and noise on all."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, array in unet.items():
        change = rng.standard_normal(array.shape) / 4
        if array.ndim == 2:
            rank = 4
            change += (
                rng.standard_normal((array.shape[0], rank)) @ rng.standard_normal((rank, array.shape[1])) / 2
            )
        norm = np.linalg.norm(array.astype(np.float64)) / max(np.linalg.norm(change), 1e-9)
        result[name] = (array + amount * norm * change).astype(array.dtype)
    return result


def write_ldm(
    path: Path, unet: Arrays, variant: str = "toy", prefix: str = LDM_PREFIX, **more: np.ndarray
) -> Path:
    """Write one file as community checkpoints come."""
    keys = UNetKeyMap(toy_config(variant))
    save_file({prefix + keys.to_ldm(name): array for name, array in unet.items()} | more, path)
    return path


def write_folder(folder: Path, unet: Arrays, variant: str = "toy", **config: Any) -> Path:
    """Write a diffusers pipeline folder with nothing but a UNet and a scheduler."""
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    save_file(unet, folder / "unet" / "diffusion_pytorch_model.safetensors")
    document = {"_class_name": "UNet2DConditionModel", **toy_config(variant), **config}
    (folder / "unet" / "config.json").write_text(json.dumps(document))
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return folder


def read_result(folder: Path) -> tuple[list[dict[str, Any]], Arrays]:
    """The ``modules_list`` and the tensors of a LinFusion checkpoint, read with the safetensors library."""
    config = json.loads((folder / "config.json").read_text())
    return config["modules_list"], load_file(folder / "diffusion_pytorch_model.safetensors")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {
        each.relative_to(folder).as_posix(): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }
