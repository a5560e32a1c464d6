"""What a LinFusion checkpoint's lock file and config say of it, as an index lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.shipped import shipped_under
from linzoo.plugin.spec import SpecError
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError

if TYPE_CHECKING:
    from linzoo.registry import Registry

PIPELINE_NAME = "model_index.json"
"""The file that makes a repository a whole pipeline."""
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
        license: what its card declares.
        measures: what a validation came to; the KD of its distillation stands where that has none.

    Raises:
        ZooError: what they say is missing or malformed.
    """
    outputs = lock["outputs"]
    base = _base(lock)
    kd = _at(lock, "distill", "measures", "kd")
    try:
        return ZooEntry(
            repo=repo,
            commit=commit,
            format="pipeline" if PIPELINE_NAME in outputs else "adapter",
            variant=_at(lock, "detection", "variant"),
            base=_name(base, registry),
            base_commit=base.get("commit"),
            base_hash=base.get("base_hash"),
            mixers=tuple(sorted({module.mixer for module in config.modules})),
            plan=_at(lock, "plan", "id"),
            recipe=_at(lock, "distill", "recipe", "id"),
            license=license,
            bytes=sum(_at(outputs, name, "bytes") or 0 for name in outputs if name.endswith(_WEIGHTS))
            or None,
            measures={**({} if kd is None else {"kd": kd}), **measures},
        )
    except (SpecError, TypeError) as error:
        raise ZooError(f"{repo}: cannot be listed as its lock file and card describe it: {error}") from error


def _base(lock: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the model that the checkpoint was made for; empty where it was distilled from another one."""
    source = lock.get("source", {})
    learnt_from = _at(lock, "distill", "teacher")
    files = {name: _at(source, "files", name, "sha256") for name in _at(source, "files") or ()}
    return source if learnt_from in (None, files) else {}


def _name(base: Mapping[str, Any], registry: Registry) -> str | None:
    if "repo" in base:
        return HubAddress.parse(base["repo"]).repo
    shipped = shipped_under(base, registry) if base else None
    return shipped.name if shipped else None


def _at(document: Any, *path: str) -> Any:
    """What stands at a place in JSON; None where there is no such place."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document
