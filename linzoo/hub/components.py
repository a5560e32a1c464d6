"""A teacher's text encoders, autoencoder, tokenizers and scheduler: all that a pipeline has besides its UNet."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.ckpt import PickledTensors
from linzoo.checkpoints.folder import PIPELINE_CONFIG, read_json
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.lock import WEIGHT_SUFFIXES, encode_json
from linzoo.checkpoints.pipeline import weights_variant
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


def fetch_components(checkpoint: Checkpoint) -> None:
    """Bring into the Hub's cache what is missing there of a whole pipeline, at the checkpoint's commit.

    Raises:
        CheckpointError: it is no whole pipeline, or cannot be had.
    """
    if checkpoint.path.is_file():
        return
    if checkpoint.layout != "diffusers-folder":
        raise CheckpointError(
            f"{checkpoint.spec}: holds a UNet and no pipeline; name the folder or repository of the whole pipeline"
        )
    if checkpoint.address is None:
        return
    from diffusers import DiffusionPipeline

    with hub_errors(checkpoint.spec):
        DiffusionPipeline.download(
            checkpoint.address.repo,
            revision=checkpoint.revision,
            variant=weights_variant(checkpoint.files[0].name),
        )


def components_size(teacher: Inspection) -> int:
    """How many bytes :func:`write_components` writes, without the few that lie beside the weights of a single file.

    Raises:
        CheckpointError: as :func:`write_components`.
    """
    if teacher.checkpoint.path.is_file():
        parts = teacher.components.items()
        return sum(count.nbytes for part, count in parts if not part.startswith(_UNET))
    components = _components(teacher.checkpoint)
    return sum(file.stat().st_size for files in components.values() for file in files.values())


def write_components(teacher: Inspection, folder: Path, registry: Registry) -> dict[str, Any]:
    """Write every component but the UNet in the form that diffusers loads, with the bits that it has in the teacher.

    Those of a pipeline's folder are copied; those of a single file are what diffusers makes of it.

    Args:
        teacher: the whole pipeline, of which :func:`fetch_components` has brought all that is needed.
        folder: where each component gets a folder.
        registry: whose plugins load teachers.

    Returns:
        What ``model_index.json`` says of the teacher.

    Raises:
        CheckpointError: a component is missing, or holds weights in a form that diffusers has no name for.
    """
    if teacher.checkpoint.path.is_file():
        _save(teacher, folder, registry)
        index = read_json(folder / PIPELINE_CONFIG)
    else:
        for component, files in _components(teacher.checkpoint).items():
            (folder / component).mkdir()
            for name, file in files.items():
                _copy(file, folder / component / name)
        index = read_json(teacher.checkpoint.path / PIPELINE_CONFIG)
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


def _components(checkpoint: Checkpoint) -> dict[str, dict[str, Path]]:
    """The files of each component of a pipeline's folder but the UNet, by the names that they get."""
    index = read_json(checkpoint.path / PIPELINE_CONFIG)
    if not isinstance(index.get("_class_name"), str):
        raise CheckpointError(
            f"{checkpoint.spec}: its pipeline is code of its own ({index.get('_class_name')}), which linzoo does not"
            " publish"
        )
    # diffusers writes [null, null] for a component that the pipeline goes without.
    folders = {
        name: checkpoint.path / name
        for name, loaded_by in index.items()
        if isinstance(loaded_by, list) and any(loaded_by) and name != _UNET and not name.startswith("_")
    }
    for name, folder in folders.items():
        if not folder.is_dir():
            raise CheckpointError(
                f"{checkpoint.spec}: {PIPELINE_CONFIG} names '{name}', which is not there; get it, or write [null, null] for"
                " it if the pipeline works without it, as it does without a safety_checker"
            )
    return {name: _files(folder) for name, folder in folders.items()}


def _files(folder: Path) -> dict[str, Path]:
    """The files of a component by the names that they get: its weights as safetensors, under the first name looked for."""
    files = sorted(each for each in folder.iterdir() if each.is_file())
    weights = [each for each in files if each.suffix in WEIGHT_SUFFIXES or ".index." in each.name]
    kept = {each.name: each for each in files if each not in weights}
    if safe := {each.name: each for each in weights if _SAFE.fullmatch(each.name)}:
        return kept | safe
    if half := [each for each in weights if _HALF.fullmatch(each.name)]:
        return kept | {_HALF.sub(r"\1\2", half[0].name): half[0]}
    if pickled := [each for each in weights if each.name in _PICKLED]:
        return kept | {f"{_PICKLED[pickled[0].name]}.safetensors": pickled[0]}
    if weights:
        raise CheckpointError(
            f"{folder}: holds its weights as {weights[0].name}; load the pipeline, save it again and name the new folder"
        )
    return kept


def _copy(source: Path, target: Path) -> None:
    if source.name not in _PICKLED:
        shutil.copyfile(source, target)
        return
    store = PickledTensors(source)
    specs = [TensorSpec(name, info.dtype, info.shape) for name, info in store.tensors.items()]
    write_weights(target, specs, store.read_bytes, max_shard_bytes=sum(spec.nbytes for spec in specs))


def _forget_places(config: Path) -> None:
    document = read_json(config)
    if any(key in document for key in _PLACES):
        left = {key: value for key, value in document.items() if key not in _PLACES}
        write_file(config, encode_json(left))
