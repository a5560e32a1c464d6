"""A LinFusion checkpoint in memory: the replaced modules alone, as a diffusers model of the official layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from linzoo.attention.errors import MountError
from linzoo.attention.generalized_linear import GeneralizedLinearAttention
from linzoo.attention.mounted import MountedAttention
from linzoo.checkpoints.linfusion import GENERALIZED_LINEAR, LinFusionConfig

if TYPE_CHECKING:
    from linzoo.registry import Registry


class LinFusion(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The weights of all replaced modules; child ``i`` belongs to entry ``i`` of ``modules_list``.

    ``LinFusion.from_pretrained(folder)`` and ``.save_pretrained(folder)`` read and write what the published code
    writes and reads: ``config.json`` of class ``LinFusion`` and tensors such as ``0.to_q.weight``,
    ``0.to_out.0.bias``, ``0.to_q_.0.weight``.

    Args:
        modules_list: one mapping for each module: ``module_name`` (dotted, in the UNet), ``dim_n`` (its width),
            ``heads``, ``projection_mid_dim``; for a mixer other than generalized linear attention also ``mixer``
            (its id) and ``options``.
        registry: where other mixers are looked up; None for all that are installed.

    Attributes:
        entries: ``modules_list``, checked.
        mixers: the class that each module gets when it is mounted.
    """

    config_name = "config.json"
    ignore_for_config = ["registry"]  # noqa: RUF012 (diffusers' own attribute)

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, modules_list: Sequence[Mapping[str, Any]], registry: Registry | None = None) -> None:
        super().__init__()
        self.entries = LinFusionConfig.from_json({"modules_list": modules_list}, "LinFusion").modules
        self.mixers = tuple(_mixer(entry.mixer, registry) for entry in self.entries)
        for index, (entry, mixer) in enumerate(zip(self.entries, self.mixers, strict=True)):
            self.add_module(str(index), mixer.weights(entry.dim_n, entry.heads, **entry.mixer_options))

    def layer(self, index: int) -> nn.ModuleDict:
        """The weights of one replaced module."""
        layer: nn.ModuleDict = self.get_submodule(str(index))
        return layer


def _mixer(mixer: str, registry: Registry | None) -> type[MountedAttention]:
    if mixer == GENERALIZED_LINEAR:
        return GeneralizedLinearAttention
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    module = registry.mixers.get_value(mixer).module
    if module is None:
        raise MountError(
            f"The mixer {mixer!r} stands for the teacher's own attention; it has no weights to mount."
        )
    loaded: type[MountedAttention] = module.load()
    return loaded
