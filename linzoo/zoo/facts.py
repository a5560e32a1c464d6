"""What a LinFusion checkpoint's lock file and config say of it, as an index lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.folder import PIPELINE_CONFIG
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.lock import address_of, at, made_for
from linzoo.checkpoints.shipped import shipped_under
from linzoo.plugin.spec import SpecError
from linzoo.zoo.entry import DISTILLATION_KD, ZooEntry
from linzoo.zoo.errors import ZooError

if TYPE_CHECKING:
    from linzoo.registry import Registry

_WEIGHTS = ".safetensors"


def entry_of(
    lock: Mapping[str, Any],
    config: LinFusionConfig,
    registry: Registry,
    *,
    repo: str,
    commit: str | None,
    license: str | None,
    measures: Mapping[str, float],
) -> ZooEntry:
    """List a checkpoint.

    Args:
        lock: what its ``linzoo.lock.json`` holds.
        config: of its replaced modules.
        registry: whose plugins may ship the model that it was made for.
        repo: see :class:`ZooEntry`.
        commit: see :class:`ZooEntry`.
        license: see :class:`ZooEntry`.
        measures: what a validation came to; the KD of its distillation is added.

    Raises:
        ZooError: what they say is missing or malformed.
    """
    outputs = lock["outputs"]
    base = made_for(lock)
    kd = at(lock, "distill", "measures", "kd")
    try:
        return ZooEntry(
            repo=repo,
            commit=commit,
            format="pipeline" if PIPELINE_CONFIG in outputs else "adapter",
            variant=at(lock, "detection", "variant"),
            base=_name(base, registry),
            base_commit=base.get("commit"),
            base_hash=base.get("base_hash"),
            mixers=tuple(sorted({module.mixer for module in config.modules})),
            plan=at(lock, "plan", "id"),
            recipe=at(lock, "distill", "recipe", "id"),
            license=license,
            bytes=sum(at(outputs, name, "bytes") or 0 for name in outputs if name.endswith(_WEIGHTS)) or None,
            measures={**({} if kd is None else {DISTILLATION_KD: kd}), **measures},
        )
    except (SpecError, TypeError) as error:
        raise ZooError(f"{repo}: cannot be listed as its lock file and card describe it: {error}") from error


def _name(base: Mapping[str, Any], registry: Registry) -> str | None:
    if (address := address_of(base)) is not None:
        return address.repo
    shipped = shipped_under(base, registry)
    return shipped.name if shipped else None
