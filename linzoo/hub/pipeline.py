"""A whole pipeline whose UNet has linear attention, as a folder that diffusers loads: the format ``pipeline``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.attention.fit import misfits
from linzoo.attention.plan import sites_of
from linzoo.checkpoints.atomic import new_folder, require_space
from linzoo.checkpoints.folder import LINEAR_WEIGHTS, PIPELINE_CONFIG
from linzoo.checkpoints.header import TensorInfo
from linzoo.checkpoints.linear_unet import CLASS_NAME, MODULE_NAME, describe, write_beside_weights
from linzoo.checkpoints.linfusion import WEIGHTS_NAME, LinFusionConfig
from linzoo.checkpoints.lock import encode_json
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.checkpoints.shards import write_weights
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.checkpoints.unet import UNetTensors, open_unet
from linzoo.checkpoints.writer import TensorSpec, write_file
from linzoo.errors import CheckpointError
from linzoo.hub.components import components_size, fetch_components, write_components

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.registry import Registry


def write_pipeline(
    teacher: Inspection, linfusion: str | Path, out: Path, *, registry: Registry, max_shard_bytes: int
) -> None:
    """Write a teacher's pipeline with a LinFusion checkpoint merged into its UNet.

    ``DiffusionPipeline.from_pretrained(out, trust_remote_code=True)`` loads it; see
    :mod:`linzoo.checkpoints.linear_unet` for what lies in ``unet`` and why. Every tensor has the dtype and the bits that it
    has in the teacher or in the checkpoint. The same input gives the same bytes, and ``out`` appears whole or not at all.

    Args:
        teacher: what the teacher is; it must hold a whole pipeline.
        linfusion: the LinFusion checkpoint.
        out: the folder to make.
        registry: whose plugins load teachers and provide mixers.
        max_shard_bytes: of the UNet's tensors in a file.

    Raises:
        CheckpointError: the checkpoint is damaged or does not fit the teacher, the teacher is no whole pipeline, or there is
            no room for ``out`` or it cannot be written.
        UndecidedError: the evidence does not settle what the teacher is.
    """
    variant, _ = teacher.require()
    merged = _Merged(
        open_unet(teacher.checkpoint, variant), open_source(linfusion, registry=registry), registry
    )
    fetch_components(teacher.checkpoint)
    require_space(out, components_size(teacher) + sum(spec.nbytes for spec in merged.specs))
    with new_folder(out) as folder:
        index = write_components(teacher, folder, registry)
        write_file(folder / PIPELINE_CONFIG, encode_json({**index, "unet": [MODULE_NAME, CLASS_NAME]}))
        merged.write(folder / "unet", max_shard_bytes)


class _Merged:
    """The tensors of a UNet with those of a LinFusion checkpoint in the place of its self-attentions'.

    Raises:
        CheckpointError: they do not fit each other, or one of them lacks tensors.
    """

    def __init__(self, unet: UNetTensors, linfusion: Checkpoint, registry: Registry) -> None:
        self._unet = unet
        self._linfusion = linfusion
        self._config = LinFusionConfig.from_folder(linfusion.path)
        self._check_fit(registry)
        self._own = self._own_names()
        infos = {name: self._info(name) for name in (*self._kept(), *self._own)}
        self.specs = [TensorSpec(name, info.dtype, info.shape) for name, info in infos.items()]

    def write(self, folder: Path, max_shard_bytes: int) -> None:
        """Write the UNet's folder."""
        weights = folder / LINEAR_WEIGHTS
        weights.mkdir(parents=True)
        write_weights(weights / WEIGHTS_NAME, self.specs, self._read, max_shard_bytes)
        write_beside_weights(folder, describe(self._unet.config, self._config.to_json()["modules_list"]))

    def _kept(self) -> list[str]:
        """The tensors that the teacher goes on with."""
        replaced = tuple(f"{module.module_name}." for module in self._config.modules)
        manifest = unet_manifest(self._unet.config)
        return [name for name in self._unet.tensors if name in manifest and not name.startswith(replaced)]

    def _own_names(self) -> dict[str, str]:
        """The names of the checkpoint's tensors there, by those that they get in the UNet."""
        modules = self._config.modules
        parts = {name: name.partition(".") for name in self._linfusion.tensors}
        return {f"{modules[int(place)].module_name}.{rest}": name for name, (place, _, rest) in parts.items()}

    def _info(self, name: str) -> TensorInfo:
        return self._linfusion.tensors[self._own[name]] if name in self._own else self._unet.tensors[name]

    def _read(self, name: str) -> memoryview:
        if name in self._own:
            return self._linfusion.read_bytes(self._own[name])
        return self._unet.checkpoint.read_bytes(self._unet.names[name])

    def _check_fit(self, registry: Registry) -> None:
        from linzoo.attention.handle import announced, tensor_problems

        path = self._linfusion.path
        for problem, names in tensor_problems(self._linfusion, announced(self._config, registry)).items():
            raise CheckpointError(
                f"{path}: {len(names)} tensors are {problem} ({names[0]}, …); write or download the checkpoint again"
            )
        shapes = {name: info.shape for name, info in self._unet.tensors.items()}
        for module, misfit in misfits(self._config, sites_of(self._unet.config, shapes)).items():
            raise CheckpointError(
                f"{path}: '{module}' is {misfit}; was it made from {self._unet.checkpoint.spec}?"
            )
