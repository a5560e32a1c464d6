"""SHA-256 of documents, and of files, in a thread beside the real work (hashlib lets other threads run)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from linzoo.errors import CheckpointError

_CHUNK = 1 << 20

Stamp = tuple[int, int, int]
"""Inode, size and time of change of a file: another stamp means other content."""


@dataclass(frozen=True)
class Digest:
    """What a file held: its size and its SHA-256."""

    bytes: int
    sha256: str


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return _stamp(path.stat())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def changed(path: Path) -> CheckpointError:
    """The error for a file whose stamp is not what it was."""
    return CheckpointError(f"{path}: changed while it was read; run again when nothing writes to it")


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ino, status.st_size, status.st_mtime_ns


def digest(path: Path, cancelled: threading.Event | None = None) -> Digest:
    """Hash one file in small pieces.

    Raises:
        CheckpointError: the file cannot be read, or changed while it was read.
    """
    hasher, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            before = _stamp(os.fstat(file.fileno()))
            while count := file.readinto(buffer):
                if cancelled is not None and cancelled.is_set():
                    break
                hasher.update(view[:count])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if stamp_of(path) != before:
        raise changed(path)
    return Digest(before[1], hasher.hexdigest())


def hash_document(document: Any) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class BackgroundDigests:
    """Hashes files in a thread while the ``with`` block works; leaving the block early stops the thread.

    Args:
        files: the files, under the names that :meth:`result` returns them by.
        known: digests of files that need not be read, or are not here.
    """

    def __init__(
        self, files: Mapping[str, Path], known: Mapping[Path, Digest] = MappingProxyType({})
    ) -> None:
        self._files = {name: path for name, path in files.items() if path not in known}
        self._known = {name: known[path] for name, path in files.items() if path in known}
        self._cancelled = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="linzoo-digest")
        self._futures: dict[str, Future[Digest]] = {}

    def __enter__(self) -> BackgroundDigests:
        for name, path in self._files.items():
            self._futures[name] = self._pool.submit(digest, path, self._cancelled)
        return self

    def result(self) -> dict[str, Digest]:
        """Wait for the thread and return the digests of all files.

        Raises:
            CheckpointError: see :func:`digest`.
        """
        return self._known | {name: future.result() for name, future in self._futures.items()}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
