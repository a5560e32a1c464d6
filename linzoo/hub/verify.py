"""``linzoo.verify``: is a checkpoint still what its lock file says, and was it made from what it says?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.digest import hash_document
from linzoo.checkpoints.lock import LOCK_NAME, WEIGHT_SUFFIXES
from linzoo.errors import CheckpointError
from linzoo.hub.origins import Origins
from linzoo.hub.places import Place, find_place
from linzoo.hub.verification import Finding, Verification, compare_file, compare_hash, recorded_hash
from linzoo.init.recipe import Follow

if TYPE_CHECKING:
    from linzoo.registry import Registry


def verify(
    checkpoint: str | Path,
    *,
    teacher: str | Path | None = None,
    registry: Registry | None = None,
    follow: Follow | None = None,
) -> Verification:
    """Check every hash of a checkpoint's lock file again.

    Its own files are read; of a repository on the Hub only the small ones are fetched, for the Hub states what the large ones
    hash to. Plan and recipes are held against their hashes. What it was made from is found on the Hub, at the commit that the
    lock file names, or among what plugins ship, or is ``teacher``; of its weights only a few tensors are read.

    Args:
        checkpoint: a folder that linzoo wrote, ``user/repo`` on the Hub, or the name of a checkpoint that a plugin ships.
        teacher: the SOURCE that it is held against, in place of what the lock file names.
        registry: where names are looked up; built from all installed plugins when None.
        follow: follows the reading of files, in bytes; None for nobody.

    Returns:
        What became of each hash. One that differs, or cannot be checked, is no error.

    Raises:
        CheckpointError: there is no lock file, it is damaged, or ``checkpoint`` or ``teacher`` cannot be had.
    """
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    follow = follow or _unfollowed
    place = find_place(checkpoint, registry)
    lock = place.lock()
    if lock is None:
        raise CheckpointError(f"{place}: has no {LOCK_NAME}, and so nothing that it could be held against")
    findings = [
        *_outputs(place, lock, follow),
        *_entries(lock),
        *Origins(lock, teacher, registry, follow).findings(),
    ]
    return Verification(str(place), tuple(findings))


def _outputs(place: Place, lock: Mapping[str, Any], follow: Follow) -> Iterator[Finding]:
    """The checkpoint's own files, and weights that are none of them."""
    names, recorded = place.names, lock["outputs"]
    with follow("Hashing", sum(map(place.size, names & recorded.keys()))) as advance:
        for name, record in sorted(recorded.items()):
            found = place.digest(name) if name in names else None
            yield compare_file(name, record, found)
            advance(found.bytes if found else 0)
    for name in sorted(names - recorded.keys()):
        if name.endswith(WEIGHT_SUFFIXES):
            yield Finding(name, "extra", "weights that the lock file does not name")


def _entries(lock: Mapping[str, Any]) -> Iterator[Finding]:
    """Plan and recipes, which the lock file holds in full."""
    entries = {
        "plan": lock.get("plan"),
        "init recipe": lock.get("init"),
        "distill recipe": lock.get("distill", {}).get("recipe"),
    }
    for kind, entry in entries.items():
        if entry is not None:
            recorded = recorded_hash(kind, entry)
            yield compare_hash(f"{kind} {entry.get('id')}", recorded, hash_document(entry.get("document")))


def _unfollowed(title: str, total: int) -> nullcontext[Any]:  # noqa: ARG001
    return nullcontext(lambda steps: None)
