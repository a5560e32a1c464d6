"""Opening a CHECKPOINT, a folder of LinFusion weights, here or on the Hub; and telling what else was named by mistake."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.address import HubAddress, on_hub
from linzoo.checkpoints.folder import PIPELINE_CONFIG
from linzoo.checkpoints.known import kind_of_class
from linzoo.checkpoints.linfusion import CONFIG_NAME, WEIGHTS_NAME, LinFusionConfig
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.registry import Registry


def open_linfusion(
    spec: str | Path, *, registry: Registry | None = None, fetch_weights: bool = True
) -> tuple[Checkpoint, LinFusionConfig]:
    """Open a CHECKPOINT; reads headers and configs only, and of what is none on the Hub fetches no weights.

    Args:
        spec: a folder, ``user/repo`` on the Hub, or the name of a checkpoint that an installed plugin ships.
        registry: where names are looked up; built when needed.
        fetch_weights: see :func:`linzoo.checkpoints.source.open_source`.

    Raises:
        CheckpointError: there is no such thing, it is damaged, or is something else than a LinFusion checkpoint: one file, the
            folder of a distillation, a whole pipeline, another component.
    """
    address = on_hub(spec)
    if address is not None and address.file is not None:
        raise _one_file(address, address.repository)
    if address is None and _is_run(Path(spec)):
        raise CheckpointError(
            f"{spec}: the folder of a distillation; its checkpoint is {Path(spec) / _RESULT}"
        )
    opened = open_source(spec, registry=registry, fetch_weights=False)
    if opened.layout == "diffusers-folder":
        raise _a_pipeline(opened)
    if "unet" not in opened.configs:
        raise _one_file(opened.spec, opened.path.parent if opened.revision is None else None)
    config = LinFusionConfig.from_json(opened.configs["unet"], f"{opened.spec}/{CONFIG_NAME}")
    if fetch_weights and opened.address is not None:
        opened = replace(open_source(str(opened.address)), spec=opened.spec)
    return opened, config


_RESULT = "linfusion"  # where a distillation puts it


def _is_run(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # a name that no folder can have, or one that may not be looked into
        own = any((folder / name).exists() for name in (CONFIG_NAME, PIPELINE_CONFIG))
        return not own and (folder / _RESULT / CONFIG_NAME).is_file()
    return False


def _one_file(spec: object, whole: HubAddress | Path | None) -> CheckpointError:
    """What to say of a file; the folder or repository that it is in may be what was meant."""
    meant = isinstance(whole, HubAddress) or (whole is not None and (whole / CONFIG_NAME).is_file())
    advice = f"name {whole}" if meant else "'linzoo convert' makes one from a teacher"
    return CheckpointError(
        f"{spec}: one file, and a LinFusion checkpoint is a folder, with {CONFIG_NAME} and {WEIGHTS_NAME} in it; {advice}"
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
