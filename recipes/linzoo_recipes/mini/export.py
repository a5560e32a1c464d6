"""mini as it ships: a diffusers folder in half precision, and the same weights as one LDM-layout file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTokenizer

from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap

from . import models
from .files import replacing, write_json
from .train_unet import Teacher

VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
_VAE_LEAVES = {"conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def pipeline(teacher: Teacher, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """Return the networks as a diffusers pipeline, without safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=teacher.text_encoder,
        tokenizer=tokenizer,
        unet=teacher.unet,
        scheduler=models.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def export_folder(pipe: StableDiffusionPipeline, tokenizer_folder: Path, folder: Path) -> None:
    """Write a pipeline as a diffusers folder in half precision that old and new transformers read alike.

    transformers 5.6 and later writes a fresh CLIPTextModel without the `text_model.` prefix (4.x then reads random
    weights) and a tokenizer without vocab.json and merges.txt (4.x then fails): both are put right here.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pipe.to(dtype=torch.float16).save_pretrained(partial)
    weights = partial / "text_encoder" / "model.safetensors"
    save_file(prefixed_text(load_file(weights)), weights, metadata={"format": "pt"})
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, partial / "tokenizer" / name)
    for config in partial.glob("*/config.json"):
        _make_portable(config)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def _make_portable(config: Path) -> None:
    """Drop the folder that diffusers notes a component was read from, and let all networks load in one dtype.

    Where no dtype is asked for, diffusers loads in float32, but transformers 5 in what its config says.
    """
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    if "dtype" in settings:
        settings["dtype"] = "float32"
    write_json(config, settings)


def export_single_file(folder: Path, path: Path) -> None:
    """Write the weights of a diffusers folder as one file in the LDM layout, as community checkpoints come."""
    config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    parts = (
        unet_to_ldm(unet, config),
        {VAE_PREFIX + name: value for name, value in vae_to_ldm(vae).items()},
        {TEXT_PREFIX + name: value for name, value in text.items()},
    )
    _save({name: value for part in parts for name, value in part.items()}, path)


def export_unet_file(unet: UNet2DConditionModel, path: Path) -> None:
    """Write a noise predictor alone, in half precision, as one file in the LDM layout."""
    _save(unet_to_ldm({name: value.half() for name, value in unet.state_dict().items()}, unet.config), path)


def unet_to_ldm(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a UNet2DConditionModel's tensors under their LDM names."""
    names = UNetKeyMap(config)
    return {LDM_PREFIX + names.to_ldm(name): value for name, value in weights.items()}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    with replacing(path) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial, {"format": "pt"})


def prefixed_text(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a text encoder's tensors with the `text_model.` prefix on each name."""
    return {
        name if name.startswith("text_model.") else f"text_model.{name}": value
        for name, value in weights.items()
    }


def vae_to_ldm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an AutoencoderKL's tensors under their LDM names; attention matrices become 1x1 convolutions."""
    levels = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("decoder.up_blocks."))
    table = dict(_vae_table(levels))
    renamed = {}
    for name, value in weights.items():
        module, _, leaf = name.rpartition(".")
        target = _vae_module(module, table)
        is_matrix = ".attn_1." in target and value.dim() == 2
        renamed[f"{target}.{leaf}"] = value[:, :, None, None] if is_matrix else value
    return renamed


def _vae_module(module: str, table: Mapping[str, str]) -> str:
    head = max((known for known in table if f"{module}.".startswith(f"{known}.")), key=len, default="")
    if not head:
        return module
    tail = module[len(head) + 1 :]
    within = _VAE_ATTENTION if table[head].endswith("attn_1") else _VAE_LEAVES
    return f"{table[head]}.{within.get(tail, tail)}".rstrip(".")


def _vae_table(levels: int) -> Iterator[tuple[str, str]]:
    """Yield (diffusers module, LDM module); the decoder counts its levels from the fine end in LDM."""
    for half in ("encoder", "decoder"):
        yield f"{half}.mid_block.resnets.0", f"{half}.mid.block_1"
        yield f"{half}.mid_block.resnets.1", f"{half}.mid.block_2"
        yield f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1"
        yield f"{half}.conv_norm_out", f"{half}.norm_out"
    for level in range(levels):
        mirrored = levels - 1 - level
        for layer in range(8):
            yield f"encoder.down_blocks.{level}.resnets.{layer}", f"encoder.down.{level}.block.{layer}"
            yield f"decoder.up_blocks.{level}.resnets.{layer}", f"decoder.up.{mirrored}.block.{layer}"
        yield f"encoder.down_blocks.{level}.downsamplers.0.conv", f"encoder.down.{level}.downsample.conv"
        yield f"decoder.up_blocks.{level}.upsamplers.0.conv", f"decoder.up.{mirrored}.upsample.conv"
