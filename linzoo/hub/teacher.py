"""The teacher of a checkpoint that is published: the one that its lock file records, wherever it is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.lock import files_read, made_for
from linzoo.checkpoints.shipped import source_of
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.checkpoints.unet import open_unet
from linzoo.errors import CheckpointError, UsageError
from linzoo.hub.license import Claim, claim_of

if TYPE_CHECKING:
    from linzoo.plugin import Variant
    from linzoo.registry import Registry


@dataclass(frozen=True)
class Teacher:
    """The teacher of a checkpoint.

    Attributes:
        spec: its SOURCE.
        claim: what its own card says of its licence, where the user has named it and it is on the Hub.
    """

    spec: str
    claim: Claim | None = None


def recorded_teacher(lock: Mapping[str, Any], registry: Registry) -> Teacher:
    """The teacher where the lock file says that it is: on the Hub at a commit, or with an installed plugin.

    Raises:
        UsageError: it was a file on some machine.
    """
    record = made_for(lock)
    source = source_of(record, registry)
    if source is None:
        files = ", ".join(sorted(record.get("files", {}))[:2])
        raise UsageError(f"the teacher was a local file ({files}); name it with --teacher SOURCE")
    return Teacher(source)


def named_teacher(
    named: str | Path, lock: Mapping[str, Any], variant: Variant, registry: Registry
) -> Teacher:
    """The teacher that the user names, which must be the recorded one: its licence is the checkpoint's.

    Raises:
        CheckpointError: it cannot be read, or is another model.
    """
    opened = open_source(named, registry=registry, fetch_weights=False)
    if not _is_recorded(opened, made_for(lock), variant):
        raise CheckpointError(
            f"{named}: not the model that this checkpoint is for: neither its files nor its weights are those that the lock file"
            " records; name the one that it was converted from, or distilled by"
        )
    if opened.address is None:
        return Teacher(str(named))
    return Teacher(str(opened.address), claim_of(opened.address, "the teacher that --teacher names"))


def _is_recorded(opened: Checkpoint, record: Mapping[str, Any], variant: Variant) -> bool:
    """By its weights, whatever layout they are in; else by its files."""
    if "base_hash" in record:
        return bool(base_hash(open_unet(opened, variant)) == record["base_hash"])
    stated = opened.store.stated
    found = {(stated.get(path) or digest(path)).sha256 for path in files_read(opened).values()}
    return bool(record) and found == {each["sha256"] for each in record["files"].values()}
