"""Every tensor that a diffusers UNet of a given config has, with its shape: what detection compares a file against.

Written after ``diffusers.UNet2DConditionModel`` and checked against it in the tests; needs neither it nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from linzoo.checkpoints.ldm import has_attention, per_block

Shape = tuple[int, ...]
Item = tuple[str, Shape]


def unet_manifest(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Return the shapes of a ``UNet2DConditionModel``'s tensors by diffusers name.

    Args:
        config: its diffusers config.

    Raises:
        CheckpointError: the config has block types that SD UNets do not have.
    """
    return dict(_Builder(config).items())


class _Builder:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.channels: list[int] = list(config["block_out_channels"])
        self.time = 4 * self.channels[0]
        levels = len(self.channels)
        self.down: Sequence[str] = config["down_block_types"]
        self.up: Sequence[str] = config["up_block_types"]
        self.layers = per_block(config.get("layers_per_block", 2), levels)
        self.context = per_block(config["cross_attention_dim"], levels)
        self.depth = per_block(config.get("transformer_layers_per_block", 1), levels)
        self.up_depth = config.get("reverse_transformer_layers_per_block") or self.depth[::-1]
        self.linear = bool(config.get("use_linear_projection"))
        self.only_cross = per_block(config.get("only_cross_attention", False), levels)

    def items(self) -> Iterator[Item]:
        first = self.channels[0]
        yield from _conv("conv_in", first, self.config.get("in_channels", 4), 3)
        yield from self._embeddings(first)
        yield from self._down_path()
        yield from self._middle()
        yield from self._up_path()
        yield from _norm("conv_norm_out", first)
        yield from _conv("conv_out", self.config.get("out_channels", 4), first, 3)

    def _embeddings(self, first: int) -> Iterator[Item]:
        config, added = self.config, self.config.get("projection_class_embeddings_input_dim", 0)
        yield from self._embedding("time_embedding", first)
        if config.get("time_cond_proj_dim"):
            yield "time_embedding.cond_proj.weight", (first, config["time_cond_proj_dim"])
        if config.get("addition_embed_type") == "text_time":
            yield from self._embedding("add_embedding", added)
        if config.get("class_embed_type") in {"timestep", "projection"}:
            yield from self._embedding(
                "class_embedding", added if config["class_embed_type"] == "projection" else first
            )
        elif config.get("num_class_embeds"):
            yield "class_embedding.weight", (config["num_class_embeds"], self.time)
        if config.get("encoder_hid_dim_type") == "text_proj":
            yield from _linear("encoder_hid_proj", self.context[0], config["encoder_hid_dim"])

    def _embedding(self, name: str, width: int) -> Iterator[Item]:
        yield from _linear(f"{name}.linear_1", self.time, width)
        yield from _linear(f"{name}.linear_2", self.time, self.time)

    def _down_path(self) -> Iterator[Item]:
        before = self.channels[0]
        for level, kind in enumerate(self.down):
            block, width = f"down_blocks.{level}", self.channels[level]
            depths = per_block(self.depth[level], self.layers[level])
            for layer in range(self.layers[level]):
                yield from self._resnet(f"{block}.resnets.{layer}", before, width)
                before = width
                if has_attention(kind):
                    yield from self._transformer(f"{block}.attentions.{layer}", level, depths[layer])
            if level < len(self.down) - 1:
                yield from _conv(f"{block}.downsamplers.0.conv", width, width, 3)

    def _middle(self) -> Iterator[Item]:
        width, kind = self.channels[-1], self.config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
        yield from self._resnet("mid_block.resnets.0", width, width)
        if kind == "UNetMidBlock2DCrossAttn":
            depth = self.depth[-1] if isinstance(self.depth[-1], int) else self.depth[-1][0]
            yield from self._transformer("mid_block.attentions.0", len(self.channels) - 1, depth)
            yield from self._resnet("mid_block.resnets.1", width, width)

    def _up_path(self) -> Iterator[Item]:
        widths, layers = self.channels[::-1], self.layers[::-1]
        before = widths[0]
        for block, kind in enumerate(self.up):
            level = len(widths) - 1 - block
            width, skip = widths[block], widths[min(block + 1, len(widths) - 1)]
            depths = per_block(self.up_depth[block], layers[block] + 1)
            for layer in range(layers[block] + 1):
                joined = before + (skip if layer == layers[block] else width)
                yield from self._resnet(f"up_blocks.{block}.resnets.{layer}", joined, width)
                before = width
                if has_attention(kind):
                    yield from self._transformer(
                        f"up_blocks.{block}.attentions.{layer}", level, depths[layer]
                    )
            if block < len(self.up) - 1:
                yield from _conv(f"up_blocks.{block}.upsamplers.0.conv", width, width, 3)

    def _resnet(self, name: str, inner: int, outer: int) -> Iterator[Item]:
        yield from _norm(f"{name}.norm1", inner)
        yield from _conv(f"{name}.conv1", outer, inner, 3)
        yield from _linear(f"{name}.time_emb_proj", outer, self.time)
        yield from _norm(f"{name}.norm2", outer)
        yield from _conv(f"{name}.conv2", outer, outer, 3)
        if inner != outer:
            yield from _conv(f"{name}.conv_shortcut", outer, inner, 1)

    def _transformer(self, name: str, level: int, depth: int) -> Iterator[Item]:
        width, context = self.channels[level], self.context[level]
        project = _linear if self.linear else _pointwise
        yield from _norm(f"{name}.norm", width)
        yield from project(f"{name}.proj_in", width, width)
        for index in range(depth):
            block = f"{name}.transformer_blocks.{index}"
            yield from _norm(f"{block}.norm1", width)
            yield from _attention(f"{block}.attn1", width, context if self.only_cross[level] else width)
            yield from _norm(f"{block}.norm2", width)
            yield from _attention(f"{block}.attn2", width, context)
            yield from _norm(f"{block}.norm3", width)
            yield from _linear(f"{block}.ff.net.0.proj", 8 * width, width)
            yield from _linear(f"{block}.ff.net.2", width, 4 * width)
        yield from project(f"{name}.proj_out", width, width)


def _attention(name: str, width: int, context: int) -> Iterator[Item]:
    yield f"{name}.to_q.weight", (width, width)
    yield f"{name}.to_k.weight", (width, context)
    yield f"{name}.to_v.weight", (width, context)
    yield from _linear(f"{name}.to_out.0", width, width)


def _norm(name: str, width: int) -> Iterator[Item]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _linear(name: str, outer: int, inner: int) -> Iterator[Item]:
    yield f"{name}.weight", (outer, inner)
    yield f"{name}.bias", (outer,)


def _pointwise(name: str, outer: int, inner: int) -> Iterator[Item]:
    return _conv(name, outer, inner, 1)


def _conv(name: str, outer: int, inner: int, size: int) -> Iterator[Item]:
    yield f"{name}.weight", (outer, inner, size, size)
    yield f"{name}.bias", (outer,)
