"""Byte ranges of a file that is elsewhere: joined so that few requests bring them, and kept on disk while they are used."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from linzoo.checkpoints.atomic import explain_os_errors, fsync_folder, held

_BOUNDS = re.compile(r"(\d+)-(\d+)")
_PART = re.compile(r"\..+\.part")


@dataclass(frozen=True, order=True)
class ByteRange:
    """The bytes from ``start`` up to, and without, ``end``."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    def __contains__(self, other: ByteRange) -> bool:
        return self.start <= other.start and other.end <= self.end


def join(ranges: Iterable[ByteRange], most: int) -> list[ByteRange]:
    """Join ranges that follow one another without a gap.

    Args:
        ranges: in any order; they do not overlap.
        most: bytes that a joined range may have; a range that is longer by itself stays whole.
    """
    joined: list[ByteRange] = []
    for each in sorted(ranges):
        if joined and joined[-1].end == each.start and each.end - joined[-1].start <= most:
            each = ByteRange(joined.pop().start, each.end)
        joined.append(each)
    return joined


class KeptRanges:
    """Ranges of one file, each in a file of its own that is named by its bounds.

    A range has its name only when it is whole and on the disk, so what a killed run leaves serves the next one. Two runs may
    share a folder: one may find that another has cleared it, and then has no such range.

    Args:
        folder: where they are; made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def missing(self, wanted: Iterable[ByteRange]) -> list[ByteRange]:
        """Those of the wanted ranges that lie in no kept one."""
        kept = list(self._kept())
        return [each for each in wanted if each and not any(each in one for one in kept)]

    def keep(self, wanted: ByteRange, pieces: Iterable[bytes]) -> None:
        """Write a range; pieces that end before they fill it leave nothing.

        Raises:
            CheckpointError: the disk refuses.
        """
        with explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f".{wanted}-{secrets.token_hex(4)}.part"
            part.touch()
            try:
                with held(part):
                    _write(part, pieces)
                    if part.stat().st_size == len(wanted):
                        part.replace(self.folder / str(wanted))
                        fsync_folder(self.folder)
            finally:
                part.unlink(missing_ok=True)

    def read_into(self, wanted: ByteRange, buffer: memoryview) -> bool:
        """Read a range into a buffer of its length, if it lies in a kept one."""
        for kept in self._kept():
            if wanted in kept:
                with suppress(FileNotFoundError), (self.folder / str(kept)).open("rb") as file:
                    file.seek(wanted.start - kept.start)
                    return file.readinto(buffer) == len(wanted)
        return False

    def clear(self) -> None:
        """Remove the ranges, and what killed runs left, as far as can be; what a living run is writing stays."""
        for path in self._files():
            if _BOUNDS.fullmatch(path.name) or _PART.fullmatch(path.name):
                with suppress(OSError), held(path):
                    path.unlink()
        with suppress(OSError):  # something is left in it
            self.folder.rmdir()

    def _kept(self) -> Iterator[ByteRange]:
        for path in self._files():
            if bounds := _BOUNDS.fullmatch(path.name):
                yield ByteRange(int(bounds[1]), int(bounds[2]))

    def _files(self) -> list[Path]:
        with suppress(OSError):
            return list(self.folder.iterdir())
        return []


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())
