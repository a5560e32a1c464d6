"""The names of a UNet's tensors in the two layouts that are in use: LDM (single files) and diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from linzoo.errors import CheckpointError

LDM_PREFIX = "model.diffusion_model."
"""What stands before a UNet's names in a whole LDM checkpoint."""

_STEM = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCKS = {
    "DownBlock2D": False,
    "CrossAttnDownBlock2D": True,
    "UpBlock2D": False,
    "CrossAttnUpBlock2D": True,
}


class UNetKeyMap:
    """Translates a UNet's tensor names between the diffusers and the LDM layout (without ``model.diffusion_model.``).

    The table is built from a diffusers UNet config, for any number of levels, residual blocks a level and
    transformer blocks. Inside a transformer both layouts use the same names.

    Args:
        config: the diffusers config of a ``UNet2DConditionModel``.

    Raises:
        CheckpointError: the config has block types that the LDM layout does not know.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._ldm = dict(_table(config))
        self._diffusers = {ldm: diffusers for diffusers, ldm in self._ldm.items()}

    def to_ldm(self, name: str) -> str:
        """Return the LDM name of a diffusers name.

        Raises:
            KeyError: the LDM layout has no such tensor for this config.
        """
        return _translate(name, self._ldm)

    def to_diffusers(self, name: str) -> str:
        """Return the diffusers name of an LDM name (without its prefix).

        Raises:
            KeyError: the UNet of this config has no such tensor.
        """
        return _translate(name, self._diffusers)


def _translate(name: str, table: Mapping[str, str]) -> str:
    module = name
    while module:
        if module in table:
            return table[module] + name[len(module) :]
        module = module.rpartition(".")[0]
    raise KeyError(name)


def _table(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (diffusers module, LDM module) for every module that holds tensors or a transformer."""
    yield from _STEM.items()
    yield from _added_embedding(config)
    down, up = config["down_block_types"], config["up_block_types"]
    layers = per_block(config.get("layers_per_block", 2), len(down))
    yield from _down_path(down, layers)
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2")
    yield from _up_path(up, layers[::-1])


def _added_embedding(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if config.get("addition_embed_type") == "text_time":
        embedding = "add_embedding"
    elif config.get("class_embed_type") in {"timestep", "projection"}:
        embedding = "class_embedding"
    elif config.get("num_class_embeds"):
        yield "class_embedding", "label_emb"
        return
    else:
        return
    yield f"{embedding}.linear_1", "label_emb.0.0"
    yield f"{embedding}.linear_2", "label_emb.0.2"


def _down_path(types: Sequence[str], layers: Sequence[int]) -> Iterator[tuple[str, str]]:
    place = 1
    for block, kind in enumerate(types):
        for layer in range(layers[block]):
            yield from _resnet(f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{place}.0")
            if has_attention(kind):
                yield f"down_blocks.{block}.attentions.{layer}", f"input_blocks.{place}.1"
            place += 1
        if block < len(types) - 1:
            yield f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{place}.0.op"
            place += 1


def _up_path(types: Sequence[str], layers: Sequence[int]) -> Iterator[tuple[str, str]]:
    place = 0
    for block, kind in enumerate(types):
        attention = has_attention(kind)
        for layer in range(layers[block] + 1):
            yield from _resnet(f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{place}.0")
            if attention:
                yield f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{place}.1"
            place += 1
        if block < len(types) - 1:
            upsampler = f"output_blocks.{place - 1}.{2 if attention else 1}.conv"
            yield f"up_blocks.{block}.upsamplers.0.conv", upsampler


def _resnet(diffusers: str, ldm: str) -> Iterator[tuple[str, str]]:
    for ours, theirs in _RESNET.items():
        yield f"{diffusers}.{ours}", f"{ldm}.{theirs}"


def has_attention(kind: str) -> bool:
    """Whether blocks of this diffusers type hold transformers.

    Raises:
        CheckpointError: the type is none that SD UNets are made of.
    """
    try:
        return _BLOCKS[kind]
    except KeyError:
        raise CheckpointError(
            f"the UNet config names the block type '{kind}'; linzoo knows {', '.join(_BLOCKS)}"
        ) from None


def per_block(value: int | Sequence[int], blocks: int) -> Sequence[int]:
    """One value for each block, where a config may give one for all."""
    return [value] * blocks if isinstance(value, int) else list(value)
