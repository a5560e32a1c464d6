"""What a checkpoint was made from, found again and held against the hashes of its lock file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.lock import LOCK_NAME, files_read, made_for, made_from
from linzoo.checkpoints.shipped import source_of
from linzoo.checkpoints.source import Checkpoint, open_source
from linzoo.checkpoints.unet import open_unet
from linzoo.errors import CheckpointError, PluginError
from linzoo.hub.verification import Finding, compare_file, compare_hash, recorded_hash
from linzoo.init.recipe import Follow

if TYPE_CHECKING:
    from linzoo.registry import Registry

_WORDS = {"learnt_from": "teacher of the distillation"}


@dataclass(frozen=True)
class Origins:
    """What a lock file says that a checkpoint was made from.

    Attributes:
        lock: the lock file.
        teacher: the SOURCE of the teacher, as the user names it; None to find it by the lock file.
        registry: whose plugins may ship it.
        follow: follows the reading of files, in bytes.
    """

    lock: Mapping[str, Any]
    teacher: str | Path | None
    registry: Registry
    follow: Follow

    def findings(self) -> Iterator[Finding]:
        """Compare what can be found.

        Raises:
            CheckpointError: the teacher that the user names cannot be read, or the lock file is damaged.
        """
        model = made_for(self.lock)
        for role, record in made_from(self.lock).items():
            _require_hashes(role, record.get("files"))
            if self.teacher is not None and record == model:
                yield from self._compared(role, record, self._open(self.teacher))
                continue
            try:
                yield from list(self._compared(role, record, self._open(self._place(record))))
            except CheckpointError as error:
                yield Finding(_WORDS.get(role, role), "unchecked", str(error))
        if "distill" in self.lock:
            yield Finding("checkpoint before the distillation", "unchecked", "not kept")
            yield Finding("data of the distillation", "unchecked", "in the cache of that run alone")

    def _place(self, record: Mapping[str, Any]) -> str:
        """The SOURCE that a record is of.

        Raises:
            CheckpointError: it does not say.
        """
        source = source_of(record, self.registry)
        if source is None:
            raise CheckpointError(
                "a local file; the lock file does not say where (a teacher can be named with --teacher)"
            )
        return source

    def _open(self, source: str | Path) -> Checkpoint:
        return open_source(source, registry=self.registry, fetch_weights=False)

    def _compared(self, role: str, record: Mapping[str, Any], checkpoint: Checkpoint) -> Iterator[Finding]:
        role = _WORDS.get(role, role)
        files, stated = files_read(checkpoint), checkpoint.store.stated
        if len(files) == len(record["files"]) == 1:  # a single file may have got another name
            files = dict(zip(record["files"], files.values(), strict=True))
        here = sum(path.stat().st_size for path in files.values() if path not in stated)
        with self.follow("Hashing", here) as advance:
            for name, recorded in sorted(record["files"].items()):
                path = files.get(name)
                found = None if path is None else stated.get(path) or digest(path)
                yield compare_file(f"{role}: {name}", recorded, found)
                advance(0 if found is None or path in stated else found.bytes)
        if "base_hash" in record:
            yield self._compared_base_hash(role, str(record["base_hash"]), checkpoint)

    def _compared_base_hash(self, role: str, recorded: str, checkpoint: Checkpoint) -> Finding:
        subject = f"{role}: base hash"
        try:
            variant = self.registry.variants.get_value(self.lock["detection"]["variant"])
        except PluginError as error:
            return Finding(subject, "unchecked", str(error))
        found = base_hash(open_unet(checkpoint, variant))
        return (
            compare_hash(subject, recorded, found)
            if found
            else Finding(subject, "unchecked", "quantised weights")
        )


def _require_hashes(role: str, files: Any) -> None:
    if not isinstance(files, Mapping):
        raise CheckpointError(f"{LOCK_NAME}: records no files of the {role}; the lock file is damaged")
    for name, each in files.items():
        recorded_hash(f"{role}: {name}", each)
