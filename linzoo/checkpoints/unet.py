"""The UNet of a checkpoint under diffusers' names, whatever layout its file has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.header import TensorInfo
from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from linzoo.plugin import Variant

_UNET_MODULES = frozenset({
    "conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj", "down_blocks", "mid_block",
    "up_blocks", "conv_norm_out", "conv_out",
})  # fmt: skip


class UNetTensors:
    """The tensors of a UNet by their diffusers names.

    Args:
        checkpoint: where they lie.
        config: the diffusers config of the UNet, needed to translate the LDM layout.

    Raises:
        CheckpointError: the checkpoint holds no UNet.

    Attributes:
        config: as given.
        names: the file's own name of each tensor, by diffusers name.
        tensors: header of each tensor, by diffusers name, in the file's order.
        unknown: names in the UNet's part of the file that the UNet of this config does not have.
    """

    def __init__(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.config = dict(config)
        self.names: dict[str, str] = {}
        self.unknown: list[str] = []
        if checkpoint.layout in {"ldm", "ldm-bare"}:
            self._map_ldm(LDM_PREFIX if checkpoint.layout == "ldm" else "")
        elif checkpoint.layout != "other":
            self._map_diffusers()
        if not self.names:
            raise CheckpointError(f"{checkpoint.path}: holds no UNet in a layout that linzoo reads")
        self.tensors: dict[str, TensorInfo] = {
            name: checkpoint.tensors[own] for name, own in self.names.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Read one tensor as an array of its own dtype; see :meth:`Checkpoint.read`."""
        return self.checkpoint.read(self.names[name])

    def read_bytes(self, name: str) -> memoryview:
        """Read one tensor's bytes; see :meth:`Checkpoint.read_bytes`."""
        return self.checkpoint.read_bytes(self.names[name])

    def _map_ldm(self, prefix: str) -> None:
        keys = UNetKeyMap(self.config)
        for own in self.checkpoint.tensors:
            if not own.startswith(prefix):
                continue
            try:
                self.names[keys.to_diffusers(own[len(prefix) :])] = own
            except KeyError:
                self.unknown.append(own)

    def _map_diffusers(self) -> None:
        for own in self.checkpoint.tensors:
            if own.partition(".")[0] in _UNET_MODULES:
                self.names[own] = own
            else:
                self.unknown.append(own)


def open_unet(checkpoint: Checkpoint, variant: Variant) -> UNetTensors:
    """The UNet of a checkpoint of this variant; a folder's own config goes before the variant's bundled one.

    Raises:
        CheckpointError: the checkpoint holds no UNet.
    """
    config = checkpoint.configs.get("unet") or component_config(variant, "unet")
    return UNetTensors(checkpoint, config)
