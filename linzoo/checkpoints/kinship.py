"""Whether a teacher has the weights that a LinFusion checkpoint was made for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.lock import made_for, read_lock
from linzoo.checkpoints.shipped import named_source
from linzoo.checkpoints.unet import open_unet
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.checkpoints.source import Checkpoint
    from linzoo.registry import Registry


def other_weights(linfusion: Checkpoint, teacher: Inspection, registry: Registry) -> str:
    """Say that a teacher has other weights than those that a LinFusion checkpoint was made for; nothing where it is not known.

    Using it with another model of its variant is allowed, and is what the published weights are for; weights of its own draw
    better.

    Args:
        linfusion: the opened checkpoint.
        teacher: what it is used with.
        registry: whose plugins may ship the model that it was made for.

    Raises:
        CheckpointError: the teacher cannot be read.
    """
    record: Mapping[str, Any] = {}
    with contextlib.suppress(CheckpointError):  # a lock file of a newer linzoo, or a damaged one
        record = made_for(read_lock(linfusion.path) or {})
    recorded = record.get("base_hash")
    if recorded is None or not (is_exact(linfusion) and is_exact(teacher.checkpoint)):
        return ""
    variant, _ = teacher.require()
    found = base_hash(open_unet(teacher.checkpoint, variant))
    if found in (None, recorded):
        return ""
    return (
        f"{linfusion.spec} was made for {named_source(record, registry)} (base hash {recorded}), and"
        f" {teacher.checkpoint.spec} has other weights ({found})"
    )


def is_exact(checkpoint: Checkpoint) -> bool:
    """Whether another base hash means other weights; of bfloat16 it may mean other rounding of the same."""
    return all(info.dtype != "BF16" for info in checkpoint.tensors.values())
