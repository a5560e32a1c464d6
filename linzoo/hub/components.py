"""A teacher's text encoders, autoencoder, tokenizers and scheduler: all that a pipeline has besides its UNet."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.ckpt import PickledTensors
from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.lock import WEIGHT_SUFFIXES, encode_json
from linzoo.checkpoints.shards import write_weights
from linzoo.checkpoints.source import Checkpoint
from linzoo.checkpoints.writer import TensorSpec, write_file
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.plugin.requests import DType
    from linzoo.registry import Registry

_UNET = "unet"
_SAFE = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?")
_HALF = re.compile(r"((?:diffusion_pytorch_)?model)\.fp16(\.safetensors)")
_PICKLED = {"diffusion_pytorch_model.bin": "diffusion_pytorch_model", "pytorch_model.bin": "model"}
_PLACES = ("_name_or_path", "name_or_path")
"""Where libraries note the folder on somebody's machine that a component once came from."""


def write_components(teacher: Inspection, folder: Path, registry: Registry) -> dict[str, Any]:
    """Write every component but the UNet in the form that diffusers loads, with the bits that it has in the teacher.

    Those of a pipeline's folder are copied; those of a single file are what diffusers makes of it.

    Args:
        teacher: the whole pipeline; of one on the Hub, what is missing here is fetched.
        folder: where each component gets a folder.
        registry: whose plugins load teachers.

    Returns:
        What ``model_index.json`` says of the teacher.

    Raises:
        CheckpointError: it is no whole pipeline, or holds weights in a form that diffusers has no name for.
    """
    checkpoint = teacher.checkpoint
    if checkpoint.path.is_file():
        _save(teacher, folder, registry)
        index = read_json(folder / "model_index.json")
    else:
        source = _whole(checkpoint)
        index = read_json(source / "model_index.json")
        for name in _components(index, checkpoint.spec):
            _copy(source / name, folder / name)
    for config in folder.glob("*/*config.json"):
        _forget_places(config)
    return {key: value for key, value in index.items() if key not in _PLACES}


def _save(teacher: Inspection, folder: Path, registry: Registry) -> None:
    from linzoo.generate.teacher import open_pipeline

    pipe = open_pipeline(teacher, registry, device="cpu", dtype=_dtype(teacher))
    for name, component in pipe.components.items():
        if name != _UNET and component is not None:
            component.save_pretrained(folder / name)
    pipe.save_config(folder)


def _dtype(teacher: Inspection) -> DType:
    """The dtype of what lies beside the UNet in a file; where there are several, the one that holds them all."""
    found = {code for part, count in teacher.components.items() if part != _UNET for code in count.dtypes}
    named: dict[str, DType] = {"F16": "float16", "BF16": "bfloat16"}
    floats = {named.get(code, "float32") for code in found if code.startswith(("F", "BF"))}
    return floats.pop() if len(floats) == 1 else "float32"


def _whole(checkpoint: Checkpoint) -> Path:
    """The pipeline's folder with all its components."""
    if checkpoint.layout != "diffusers-folder":
        raise CheckpointError(
            f"{checkpoint.spec}: holds a UNet and no pipeline; name the folder or repository of the whole pipeline"
        )
    if checkpoint.revision is None:
        return checkpoint.path
    from diffusers import DiffusionPipeline

    half = ".fp16." in checkpoint.files[0].name
    with hub_errors(checkpoint.spec):
        return Path(
            DiffusionPipeline.download(
                HubAddress.parse(checkpoint.spec).repo,
                revision=checkpoint.revision,
                variant="fp16" if half else None,
            )
        )


def _components(index: dict[str, Any], spec: str) -> Iterator[str]:
    if not isinstance(index.get("_class_name"), str):
        raise CheckpointError(
            f"{spec}: its pipeline is code of its own ({index.get('_class_name')}), which linzoo does not publish"
        )
    for name, loaded_by in index.items():
        if isinstance(loaded_by, list) and loaded_by[0] is not None and name != _UNET:
            yield name


def _copy(source: Path, target: Path) -> None:
    """Copy a component, its weights as safetensors under the name that is looked for first."""
    target.mkdir()
    files = sorted(each for each in source.iterdir() if each.is_file())
    weights = [each for each in files if each.suffix in WEIGHT_SUFFIXES or ".index." in each.name]
    for file in files:
        if file not in weights:
            shutil.copyfile(file, target / file.name)
    if safe := [each for each in weights if _SAFE.fullmatch(each.name)]:
        for file in safe:
            shutil.copyfile(file, target / file.name)
    elif half := [each for each in weights if _HALF.fullmatch(each.name)]:
        shutil.copyfile(half[0], target / _HALF.sub(r"\1\2", half[0].name))
    elif pickled := [each for each in weights if each.name in _PICKLED]:
        _unpickle(pickled[0], target / f"{_PICKLED[pickled[0].name]}.safetensors")
    elif weights:
        raise CheckpointError(
            f"{source}: holds its weights as {weights[0].name}; load the pipeline, save it again and name the new folder"
        )


def _unpickle(source: Path, target: Path) -> None:
    store = PickledTensors(source)
    specs = [TensorSpec(name, info.dtype, info.shape) for name, info in store.tensors.items()]
    write_weights(target, specs, store.read_bytes, max_shard_bytes=sum(spec.nbytes for spec in specs))


def _forget_places(config: Path) -> None:
    document = read_json(config)
    if any(key in document for key in _PLACES):
        left = {key: value for key, value in document.items() if key not in _PLACES}
        write_file(config, encode_json(left))
