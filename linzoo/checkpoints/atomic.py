"""Results that appear whole or not at all: a folder or file is built beside its place and moved there at the end."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from linzoo.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has no flock; leftovers of killed runs then stay until someone deletes them
    fcntl = None  # type: ignore[assignment]


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``target``; it becomes ``target`` when the block ends without an error.

    After an error nothing is left and ``target`` is as it was. A killed run leaves a hidden
    ``.NAME.linzoo-…`` folder, which the next run for the same target removes.

    Args:
        target: the folder to make; missing parents are made too.
        replace: ``target`` may exist with files in it; they are removed once the new folder is in place.

    Raises:
        CheckpointError: the place cannot be written, the disk is full, or ``target`` has files and may not be
            replaced.
    """
    target = Path(os.path.realpath(target))
    made: list[Path] = []
    with explain_os_errors(target):
        try:
            made = _make_parents(target)
            _clean_up_after_killed_runs(target)
            folder = target.with_name(f".{target.name}.linzoo-{secrets.token_hex(4)}")
            folder.mkdir()
            with held(folder):
                try:
                    yield folder
                    _move(folder, target, replace)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
            fsync_folder(target.parent)
        except BaseException:
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()
            raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file beside its place and move it there; what stood there stays until then.

    Raises:
        CheckpointError: the place cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)


@contextmanager
def explain_os_errors(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a :class:`CheckpointError` that names the place and says what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "make room or choose another disk",
            errno.EDQUOT: "make room or choose another disk",
            errno.EACCES: "choose a folder that you may write to",
            errno.EPERM: "choose a folder that you may write to",
            errno.EROFS: "choose a folder that you may write to",
            errno.ENOTDIR: "a part of this path is a file; choose another place",
        }.get(error.errno or 0, "choose another place")
        raise CheckpointError(f"cannot write {target}: {error.strerror or error}; {advice}") from error


def require_space(target: Path, needed: int) -> int:
    """Return the free bytes where ``target`` will be.

    Raises:
        CheckpointError: less than ``needed`` bytes are free.
    """
    with explain_os_errors(target):
        free = shutil.disk_usage(_existing(target)).free
    if free < needed:
        raise CheckpointError(
            f"{target}: {needed:,} bytes are needed and {free:,} are free; make room or choose another disk"
        )
    return free


def same_disk(first: Path, second: Path) -> bool:
    """Whether two places, which need not exist yet, share their free bytes."""
    return _existing(first).stat().st_dev == _existing(second).stat().st_dev


def _existing(place: Path) -> Path:
    """A place, or the deepest folder above it that exists."""
    return next(each for each in (place, *place.absolute().parents) if each.exists())


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut (a no-op where folders cannot be synced)."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _make_parents(target: Path) -> list[Path]:
    """Make the missing parents of ``target``; return them, the deepest first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
    return missing


def _move(folder: Path, target: Path, replace: bool) -> None:
    if not (target.is_dir() and any(target.iterdir())):
        with suppress(FileNotFoundError):
            target.rmdir()
        folder.rename(target)
        return
    if not replace:
        raise CheckpointError(f"{target} is not empty; choose another folder")
    old = folder.with_name(f"{folder.name}.old")
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _clean_up_after_killed_runs(target: Path) -> None:
    """Remove what dead runs left; give back an earlier result whose replacement was cut between two renames."""
    for leftover in sorted(target.parent.glob(f".{_literal(target.name)}.linzoo-*")):
        with suppress(BlockingIOError), held(leftover) as alone:
            if alone and leftover.suffix == ".old" and not target.exists():
                leftover.rename(target)
            elif alone:
                shutil.rmtree(leftover, ignore_errors=True)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold a lock on ``folder`` that ends with this process; yields whether locks exist here.

    Raises:
        BlockingIOError: a living process holds it.
    """
    if fcntl is None:
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    finally:
        os.close(descriptor)
