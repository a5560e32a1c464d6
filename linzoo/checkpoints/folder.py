"""Folders as diffusers writes them: component configs, and weights in one file or in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from linzoo.checkpoints.files import SafetensorsFiles, TensorStore
from linzoo.errors import CheckpointError

_WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.safetensors.fp16.index.json",
    "diffusion_pytorch_model.fp16.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
)
"""Names that diffusers gives to a model's weights, the preferred one first."""

PIPELINE_CONFIG = "model_index.json"
"""The file that makes a folder or repository a whole pipeline."""

LINEAR_WEIGHTS = "linear.weights"
"""Folder inside a UNet's folder where the weights of a linear UNet lie (see :mod:`linzoo.checkpoints.linear_unet`)."""

_MAX_JSON = 32_000_000


def pick_weights(names: frozenset[str]) -> str | None:
    """Of the files of a component folder, by their paths in it, the weights file or shard index to read."""
    places = (*_WEIGHTS, *(f"{LINEAR_WEIGHTS}/{name}" for name in _WEIGHTS))
    return next((name for name in places if name in names), None)


def shards_of(index: dict[str, Any], where: str) -> dict[str, frozenset[str]]:
    """Return the shard files of a shard index, each with the names of its tensors.

    Raises:
        CheckpointError: the index is malformed, or names a file that is not plainly beside it.
    """
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: has no 'weight_map'; it is no shard index, or a damaged one")
    shards: dict[str, set[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not _plain_name(file):
            raise CheckpointError(
                f"{where}: places {tensor!r} in {file!r}, which is not the plain name of a .safetensors file"
                " beside the index; the index is hostile or damaged"
            )
        shards.setdefault(file, set()).add(tensor)
    return {file: frozenset(shards[file]) for file in sorted(shards)}


def open_component(folder: Path) -> TensorStore:
    """Open the weights of one component folder, for example ``unet``.

    Raises:
        CheckpointError: there are no weights under a name that diffusers gives, or they are damaged.
    """
    files = [*folder.iterdir(), *folder.glob(f"{LINEAR_WEIGHTS}/*")]
    name = pick_weights(frozenset(each.relative_to(folder).as_posix() for each in files))
    if name is None:
        raise CheckpointError(
            f"{folder}: holds no weights that linzoo reads: {_WEIGHTS[0]}, its shards, its .fp16. form or a .bin"
        )
    path = folder / name
    if name.endswith(".json"):
        shards = shards_of(read_json(path), str(path))
        for shard in shards:
            if not path.with_name(shard).is_file():
                raise CheckpointError(f"{path.with_name(shard)}: missing, but {name} lists it; download it")
        return SafetensorsFiles({path.with_name(shard): tensors for shard, tensors in shards.items()})
    if name.endswith(".bin"):
        from linzoo.checkpoints.ckpt import PickledTensors

        return PickledTensors(path)
    return SafetensorsFiles({path: None})


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the configs of a pipeline folder or of one component folder.

    Returns:
        Of a pipeline: ``model_index`` and every component by the name of its folder. Of a component folder: its
        config under ``unet``, whatever class it says it is.

    Raises:
        CheckpointError: the folder is neither, or a config is no JSON object.
    """
    if (folder / PIPELINE_CONFIG).is_file():
        configs = {"model_index": read_json(folder / PIPELINE_CONFIG)}
        for component in sorted(each for each in folder.iterdir() if each.is_dir()):
            for name in ("config.json", "scheduler_config.json"):
                if (component / name).is_file():
                    configs[component.name] = read_json(component / name)
        return configs
    if (folder / "config.json").is_file():
        return {"unet": read_json(folder / "config.json")}
    files = sorted(each.name for each in folder.iterdir() if each.suffix in {".safetensors", ".ckpt"})
    hint = f"; name the file itself: {folder / files[0]}" if files else ""
    raise CheckpointError(f"{folder}: no diffusers folder (neither {PIPELINE_CONFIG} nor config.json){hint}")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file cannot be read, is too large, or holds something else.
    """
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CheckpointError(f"{path}: larger than any config ({path.stat().st_size:,} bytes)")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON {type(value).__name__} and not an object")
    return value


def _plain_name(file: str) -> bool:
    return file.endswith(".safetensors") and not set(file) & set("/\\:\0") and not file.startswith(".")
