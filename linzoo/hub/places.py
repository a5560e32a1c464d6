"""Where a result of linzoo lies, and what its files hash to there: a folder on this machine, or a repository on the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from linzoo.checkpoints.address import HubAddress, no_folder_either, on_hub
from linzoo.checkpoints.digest import Digest, digest
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.lock import LOCK_NAME, read_lock
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.hub.target import StoredFile, stored_files

if TYPE_CHECKING:
    from linzoo.registry import Registry


class Place(Protocol):
    """A folder or a repository."""

    @property
    def names(self) -> Set[str]:
        """Its files, with ``/`` between the parts."""

    def size(self, name: str) -> int:
        """Bytes that are read to hash a file."""

    def lock(self) -> Mapping[str, Any] | None:
        """What its lock file holds; None where there is none."""

    def digest(self, name: str) -> Digest:
        """What a file hashes to."""


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def names(self) -> Set[str]:
        """See :class:`Place`."""
        return {each.relative_to(self.path).as_posix() for each in self.path.rglob("*") if each.is_file()}

    def size(self, name: str) -> int:
        """See :class:`Place`."""
        return (self.path / name).stat().st_size

    def lock(self) -> Mapping[str, Any] | None:
        """See :class:`Place`.

        Raises:
            CheckpointError: it is damaged.
        """
        return read_lock(self.path)

    def digest(self, name: str) -> Digest:
        """Read the file.

        Raises:
            CheckpointError: it cannot be read.
        """
        return digest(self.path / name)


@dataclass(frozen=True)
class Repository:
    """A repository on the Hub at one commit. Large files are not fetched: the Hub states what they hash to."""

    address: HubAddress
    files: Mapping[str, StoredFile]

    def __str__(self) -> str:
        return str(self.address)

    @property
    def names(self) -> Set[str]:
        """See :class:`Place`."""
        return self.files.keys()

    def size(self, name: str) -> int:
        """See :class:`Place`."""
        return self.files[name].bytes

    def lock(self) -> Mapping[str, Any] | None:
        """See :class:`Place`.

        Raises:
            CheckpointError: it is damaged, or cannot be fetched.
        """
        return read_lock(self._fetch(LOCK_NAME).parent) if LOCK_NAME in self.files else None

    def digest(self, name: str) -> Digest:
        """Take the Hub's word for a large file, and fetch a small one.

        Raises:
            CheckpointError: it cannot be fetched.
        """
        stored = self.files[name]
        return Digest(stored.bytes, stored.sha256) if stored.sha256 else digest(self._fetch(name))

    def _fetch(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        with hub_errors(str(self)):
            return Path(hf_hub_download(self.address.repo, name, revision=self.address.revision))


def find_place(result: str | Path, registry: Registry) -> Folder | Repository:
    """Find a result of linzoo.

    Args:
        result: a folder, ``user/repo`` on the Hub (with ``hf://`` or without, with ``@revision`` or of the main branch),
            or the name of a checkpoint that a plugin ships.
        registry: where names are looked up.

    Raises:
        CheckpointError: there is no such thing, or the Hub cannot be asked.
    """
    address = on_hub(result)
    if address is not None:
        with no_folder_either(result):
            return _look_at(address.whole())
    path = Path(result)
    if not path.exists():
        path = open_source(result, registry=registry).path
    if not path.is_dir():
        raise CheckpointError(f"{path}: a file, and no result of linzoo, which is a folder with {LOCK_NAME}")
    return Folder(path)


def _look_at(address: HubAddress) -> Repository:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{address}: verified against what the Hub states, which cannot be asked offline; unset HF_HUB_OFFLINE, or name a"
            " folder"
        )
    with hub_errors(str(address), cached=False):
        info = HfApi().model_info(address.repo, revision=address.revision, files_metadata=True)
    return Repository(HubAddress(address.repo, info.sha), stored_files(info))
