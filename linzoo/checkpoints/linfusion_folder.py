"""Opening a CHECKPOINT: a folder of LinFusion weights, here or on the Hub, and nothing that is often taken for one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.address import on_hub
from linzoo.checkpoints.known import kind_of_class
from linzoo.checkpoints.linfusion import CONFIG_NAME, WEIGHTS_NAME
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.registry import Registry


def open_linfusion(
    spec: str | Path, *, registry: Registry | None = None, fetch_weights: bool = True
) -> Checkpoint:
    """Open a CHECKPOINT; reads headers and configs only.

    Args:
        spec: a folder, ``user/repo`` on the Hub, or the name of a checkpoint that an installed plugin ships.
        registry: where names are looked up; built when needed.
        fetch_weights: see :func:`linzoo.checkpoints.source.open_source`.

    Raises:
        CheckpointError: there is no such thing, it is damaged, or is something else than a LinFusion checkpoint: one file, the
            folder of a distillation, a whole pipeline.
    """
    address = on_hub(spec)
    if address is not None and address.file is not None:
        raise _no_folder(spec)
    inside = Path(spec) / "linfusion"
    if address is None and (inside / CONFIG_NAME).is_file():
        raise CheckpointError(f"{spec}: the folder of a distillation; its checkpoint is {inside}")
    opened = open_source(spec, registry=registry, fetch_weights=fetch_weights)
    if "model_index" in opened.configs:
        raise _a_pipeline(opened)
    if "unet" not in opened.configs:
        raise _no_folder(opened.spec)
    return opened


def _no_folder(spec: str | Path) -> CheckpointError:
    return CheckpointError(
        f"{spec}: one file, and a LinFusion checkpoint is a folder, with {CONFIG_NAME} and {WEIGHTS_NAME} in it; 'linzoo"
        " convert' makes one from a teacher"
    )


def _a_pipeline(opened: Checkpoint) -> CheckpointError:
    if kind_of_class(str(opened.configs.get("unet", {}).get("_class_name"))) == "linear-unet":
        return CheckpointError(
            f"{opened.spec}: a whole pipeline and not the linear modules alone; load it with"
            " diffusers.DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    return CheckpointError(
        f"{opened.spec}: a model and not a LinFusion checkpoint; 'linzoo convert {opened.spec} OUT' makes one from it"
    )
