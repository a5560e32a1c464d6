"""What already stands where a result is to go, and whether it may be replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linzoo.checkpoints.lock import LOCK_NAME, changed_outputs, read_lock
from linzoo.errors import CheckpointError


@dataclass(frozen=True)
class EarlierResult:
    """A result of linzoo, whole and as its lock file describes it."""

    folder: Path
    lock: Mapping[str, Any]

    def check_replaceable(self, lock: Mapping[str, Any], force: bool) -> None:
        """Agree to be replaced by a new result: the same one again, or any with ``force``.

        Args:
            lock: the lock file of the new result, or the part of it that is known yet.
            force: replace another result too.

        Raises:
            CheckpointError: the new result is another one and ``force`` is not set, or files have come into the
                folder that linzoo did not write.
        """
        self._check_files()
        different = sorted(key for key, value in lock.items() if value != self.lock.get(key))
        if different and not force:
            raise CheckpointError(
                f"{self.folder} holds another result of linzoo (different: {', '.join(different)});"
                " use --force to replace it, or choose another folder"
            )

    def _check_files(self) -> None:
        names = {each.name for each in self.folder.iterdir()}
        if foreign := names - set(self.lock["outputs"]) - {LOCK_NAME}:
            raise CheckpointError(
                f"{self.folder} holds files that linzoo did not write ({_some(foreign)}) and would lose; move them"
                " away, or choose another folder"
            )


def check_target(out: Path, sources: Iterable[Path]) -> EarlierResult | None:
    """Check that a result can go to ``out``; return the earlier result that stands there.

    Only what a run can make again is ever replaced: a folder that holds the files of its lock file, unchanged, and
    nothing else (see :meth:`EarlierResult.check_replaceable`).

    Raises:
        CheckpointError: ``out`` is a file, lies inside a source, or holds no result, or one that has changed.
    """
    place = Path(os.path.realpath(out))
    for source in sources:
        real = Path(os.path.realpath(source))
        if place == real or real in place.parents:
            raise CheckpointError(
                f"{out} lies inside {source}, which is only read; choose a folder outside it"
            )
    if not place.exists():
        return None
    if not place.is_dir():
        raise CheckpointError(f"{out} is a file; name a folder that does not exist yet")
    names = {each.name for each in place.iterdir()}
    if not names:
        return None
    lock = read_lock(place)
    if lock is None:
        raise CheckpointError(
            f"{out} is not empty and was not made by linzoo ({_some(names)}); choose a folder that does not exist yet"
        )
    if changed := changed_outputs(place, lock):
        raise CheckpointError(
            f"{out}: {_some(changed)} changed since linzoo wrote it, and would be lost; move the folder away, or"
            " choose another one"
        )
    return EarlierResult(place, lock)


def _some(names: Iterable[str], most: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (", …" if len(ordered) > most else "")
