"""A UNet that is linear by itself: what a pipeline repository holds in the teacher's UNet's place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.loaders import peft

from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mount import mount_for_good
from linzoo.checkpoints.folder import LINEAR_WEIGHTS
from linzoo.checkpoints.linear_unet import MODULE_NAME, describe, remove_refusal, write_beside_weights
from linzoo.errors import CheckpointError, UsageError


class LinearUNet(UNet2DConditionModel):  # type: ignore[misc]
    """A ``UNet2DConditionModel`` with a LinFusion checkpoint mounted in it for good.

    ``DiffusionPipeline.from_pretrained(..., trust_remote_code=True)`` makes it where a pipeline's ``unet`` folder is as
    :mod:`linzoo.checkpoints.linear_unet` describes, and ``save_pretrained``, the pipeline's too, writes such a folder
    again. Devices, dtypes, LoRA, IP-Adapter and folding are as with a mounted checkpoint; there is no teacher in it, so
    that nothing can be unmounted, and no softmax for small sizes.

    Args:
        modules_list: the replaced modules, as in ``config.json`` of a LinFusion checkpoint.
        unet: the arguments of ``UNet2DConditionModel``.

    Raises:
        CheckpointError: ``modules_list`` is damaged.
        MountError: it is for another variant.
    """

    def __init__(self, *, modules_list: Sequence[Mapping[str, Any]], **unet: Any) -> None:
        super().__init__(**unet)
        self.register_to_config(modules_list=[dict(entry) for entry in modules_list])
        mount_for_good(self, LinFusion(modules_list=modules_list))
        # A pipeline writes into model_index.json where its UNet's class is; it shall be the module in the UNet's folder.
        self.__module__ = MODULE_NAME

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """The entries of a config that ``__init__`` takes; diffusers looks for their names in its signature."""
        keys: set[str] = UNet2DConditionModel._get_init_keys(input_class)
        if issubclass(input_class, LinearUNet):
            keys = keys - {"unet"} | UNet2DConditionModel._get_init_keys(UNet2DConditionModel)
        return keys

    @classmethod
    def load_config(
        cls, pretrained_model_name_or_path: Any, *args: Any, subfolder: str | None = None, **options: Any
    ) -> Any:
        """Read ``config.json``, which lies beside the folder of the weights, and leave out what guards it."""
        beside = (subfolder or "").removesuffix(LINEAR_WEIGHTS).rstrip("/")
        loaded = super().load_config(
            pretrained_model_name_or_path, *args, subfolder=beside or None, **options
        )
        remove_refusal(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *,
        subfolder: str | None = None,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """Load a UNet, with the arguments of diffusers' ``from_pretrained``.

        Raises:
            CheckpointError: the weights are not those that its config announces.
        """
        unet, info = super().from_pretrained(
            pretrained_model_name_or_path,
            subfolder=f"{subfolder}/{LINEAR_WEIGHTS}" if subfolder else LINEAR_WEIGHTS,
            output_loading_info=True,
            **options,
        )
        for problem, names in info.items():
            if names:
                raise CheckpointError(
                    f"{pretrained_model_name_or_path}: {len(names)} {problem.replace('_', ' ')} in the UNet's weights (such "
                    f"as {min(map(str, names))}). They are damaged, or belong to another config.json; download or write "
                    "them again."
                )
        return (unet, info) if output_loading_info else unet

    def save_pretrained(
        self, save_directory: Any, *, max_shard_size: int | str = "10GB", **options: Any
    ) -> None:
        """Write a UNet's folder, with the arguments of diffusers' ``save_pretrained``.

        A pipeline that is saved under the name of a variant keeps its UNet's weights under their one name, where it
        finds them again.

        Raises:
            UsageError: ``push_to_hub`` is asked for, which would push a part of the folder.
        """
        if options.get("push_to_hub"):
            raise UsageError(
                "Save the UNet first, or call its push_to_hub(); 'linzoo push' adds a model card."
            )
        folder = Path(save_directory)
        super().save_pretrained(folder / LINEAR_WEIGHTS, max_shard_size=max_shard_size, **options)
        (folder / LINEAR_WEIGHTS / self.config_name).unlink()
        config = json.loads(self.to_json_string())
        write_beside_weights(folder, describe(config, config["modules_list"]))


# diffusers spreads a LoRA's scales over the blocks of a UNet by the name of its class.
peft._SET_ADAPTER_SCALE_FN_MAPPING[LinearUNet.__name__] = peft._SET_ADAPTER_SCALE_FN_MAPPING[
    UNet2DConditionModel.__name__
]
