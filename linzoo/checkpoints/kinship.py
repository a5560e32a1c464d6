"""Whether a teacher has the weights that a LinFusion checkpoint was made for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.lock import made_for, read_lock
from linzoo.checkpoints.shipped import named_source
from linzoo.checkpoints.unet import open_unet

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
        CheckpointError: the lock file is damaged, or the teacher cannot be read.
    """
    record = made_for(read_lock(linfusion.path) or {})
    recorded = record.get("base_hash")
    variant, _ = teacher.require()
    found = None if recorded is None else base_hash(open_unet(teacher.checkpoint, variant))
    if found in (None, recorded):
        return ""
    return (
        f"{linfusion.spec} was made for {named_source(record, registry)} (base hash {recorded}), and {teacher.checkpoint.spec} has other weights"
        f" ({found})"
    )
