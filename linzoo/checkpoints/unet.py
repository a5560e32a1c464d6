"""The UNet of a checkpoint under diffusers' names, whatever layout its file has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.header import TensorInfo
from linzoo.checkpoints.layout import is_ldm, unet_names
from linzoo.checkpoints.ldm import UNetKeyMap
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from linzoo.plugin import Variant


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
    """

    def __init__(self, checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
        self.checkpoint = checkpoint
        self.config = dict(config)
        self.names = unet_names(checkpoint.tensors, checkpoint.layout)
        if is_ldm(checkpoint.layout):
            self.names = dict(_translated(self.names, UNetKeyMap(config)))
        if not self.names:
            raise CheckpointError(f"{checkpoint.path}: holds no UNet in a layout that linzoo reads")
        self.tensors: dict[str, TensorInfo] = {
            name: checkpoint.tensors[own] for name, own in self.names.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Read one tensor as an array of its own dtype; see :meth:`Checkpoint.read`."""
        return self.checkpoint.read(self.names[name])


def _translated(names: Mapping[str, str], keys: UNetKeyMap) -> Iterator[tuple[str, str]]:
    for name, own in names.items():
        with contextlib.suppress(KeyError):  # the UNet of this config has no such tensor
            yield keys.to_diffusers(name), own


def open_unet(checkpoint: Checkpoint, variant: Variant) -> UNetTensors:
    """The UNet of a checkpoint of this variant; a folder's own config goes before the variant's bundled one.

    Raises:
        CheckpointError: the checkpoint holds no UNet.
    """
    config = checkpoint.configs.get("unet") or component_config(variant, "unet")
    return UNetTensors(checkpoint, config)
