"""Building a diffusers pipeline from a folder, a Hub repository or a single file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from linzoo.checkpoints.address import SCHEME, HubAddress
from linzoo.checkpoints.components import component_folder
from linzoo.checkpoints.folder import PIPELINE_CONFIG, pick_weights, read_json
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.plugin import TeacherRequest

_OTHER_NETWORKS = ("first_stage_model.", "cond_stage_model.", "conditioner.")


def build_pipeline(request: TeacherRequest) -> Any:
    """Build the pipeline of a teacher that plain diffusers can load.

    A single file gets the component configs and tokenizers that its variant bundles, so that nothing is fetched.

    Raises:
        CheckpointError: it is no complete pipeline, or diffusers cannot load it; says what is missing.
    """
    import torch

    dtype = getattr(torch, request.dtype)
    try:
        if request.path.is_file():
            with component_folder(request.variant, request.prediction_type) as folder:
                pipe = _from_file(request, folder, dtype=dtype)
        else:
            pipe = _from_folder(request, dtype=dtype)
        pipe.to(request.device)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{request.source}: diffusers cannot build a pipeline from it: {error}\n"
            "  'linzoo inspect' tells what the checkpoint holds."
        ) from error
    _check_tokenizers(pipe, request.source)
    return pipe


def _from_folder(request: TeacherRequest, **options: Any) -> Any:
    from diffusers import DiffusionPipeline

    if not (request.path / PIPELINE_CONFIG).is_file():
        raise CheckpointError(
            f"{request.source}: holds one component and not a pipeline (there is no model_index.json), and a UNet "
            "alone cannot draw; name the pipeline's folder."
        )
    weights = pick_weights(frozenset(each.name for each in (request.path / "unet").iterdir()))
    options["variant"] = weights_variant(weights or "")
    if request.source.startswith(SCHEME):
        repo, commit = HubAddress.parse(request.source).repo, request.path.name  # as the Hub's cache names it
        return DiffusionPipeline.from_pretrained(repo, revision=commit, **options)
    return DiffusionPipeline.from_pretrained(request.path, local_files_only=True, **options)


def weights_variant(name: str) -> str | None:
    """The ``variant`` that diffusers must be told for a pipeline, by the name of its UNet's weights."""
    return "fp16" if ".fp16" in name else None


def _from_file(request: TeacherRequest, configs: Path, **options: Any) -> Any:
    """A file with all networks, or with a UNet alone, which takes the others from what its variant ships."""
    import diffusers

    file, shipped = str(request.path), request.variant.components.locate()
    index = read_json(configs / "model_index.json")
    cls = getattr(diffusers, index["_class_name"])
    if any(name.startswith(_OTHER_NETWORKS) for name in open_source(request.path).tensors):
        return cls.from_single_file(file, config=str(configs), **options)
    if not any((shipped / "vae").glob("*.safetensors")):
        raise CheckpointError(
            f"{file}: holds a UNet alone, which cannot draw without a text encoder and an autoencoder; name a file "
            "or a folder with the whole pipeline."
        )
    unet = diffusers.UNet2DConditionModel.from_single_file(
        file, config=str(configs), subfolder="unet", **options
    )
    scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(configs, subfolder="scheduler")
    return cls.from_pretrained(shipped, unet=unet, scheduler=scheduler, local_files_only=True, **options)


def _check_tokenizers(pipe: Any, source: str) -> None:
    """A tokenizer whose files are not there loads without an error as one of two words."""
    for suffix in ("", "_2"):
        tokenizer = getattr(pipe, f"tokenizer{suffix}", None)
        encoder = getattr(pipe, f"text_encoder{suffix}", None)
        if tokenizer is None or encoder is None:
            continue
        if len(tokenizer) != encoder.config.vocab_size:
            raise CheckpointError(
                f"{source}: its tokenizer{suffix} knows {len(tokenizer):,} words, but its text encoder "
                f"{encoder.config.vocab_size:,}: the tokenizer's files are missing or belong to another model."
            )
