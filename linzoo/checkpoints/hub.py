"""Fetching a model from the Hugging Face Hub: only the files that linzoo reads, through the local Hub cache."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from linzoo.checkpoints.files import SafetensorsFiles
from linzoo.checkpoints.folder import pick_weights, read_json, shards_of
from linzoo.checkpoints.header import Readable
from linzoo.errors import CheckpointError

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_CONFIGS = re.compile(
    r"model_index\.json|config\.json|linzoo\.lock\.json|[\w.-]+/(?:config|scheduler_config)\.json"
)


@dataclass(frozen=True)
class HubFile:
    """A file that stays on the Hub and is read by range requests; opens like a path."""

    repo: str
    commit: str
    name: str

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.commit}/{self.name}"

    @contextlib.contextmanager
    def open(self, mode: Literal["rb"], /) -> Iterator[Readable]:
        """Open the file for reading, nothing read ahead; what fails while it is open fails as for :func:`fetch`."""
        from huggingface_hub import HfFileSystem

        with (
            _hub_errors(self.repo, self.commit),
            HfFileSystem().open(f"{self.repo}@{self.commit}/{self.name}", mode, cache_type="none") as file,
        ):
            yield cast(Readable, file)


@dataclass(frozen=True)
class _Located:
    """What makes the model in a repository.

    Attributes:
        repo, revision: as addressed.
        commit: what the revision is now.
        configs: the config files; empty for a repository that is used for its one file.
        weights: the weights file or shard index.
    """

    repo: str
    revision: str | None
    commit: str
    configs: tuple[str, ...]
    weights: str

    def download(self, *names: str) -> Path:
        """Fetch files and return the model: the snapshot folder, or the one file in it."""
        folder = _download(self.repo, self.revision, names)
        return folder if self.configs else folder / self.weights

    def shards(self, folder: Path) -> dict[str, frozenset[str]]:
        """The shards of the index, which is fetched, by their names in the repository."""
        index = folder / self.weights
        inside = self.weights[: self.weights.rfind("/") + 1]
        found = shards_of(read_json(index), str(index))
        return {inside + shard: tensors for shard, tensors in found.items()}


def fetch(address: str) -> tuple[Path, str]:
    """Bring the configs and the UNet weights of a Hub repository into the cache.

    Args:
        address: ``hf://user/repo`` or ``hf://user/repo@revision``.

    Returns:
        The folder (or the one file, for a repository that is no diffusers folder), and the commit.

    Raises:
        CheckpointError: the address is malformed, the repository cannot be had, or holds no model that linzoo reads.
    """
    found = _locate(address)
    path = found.download(*found.configs, found.weights)
    if found.weights.endswith(".json"):
        path = found.download(*found.shards(path))
    return path, found.commit


def fetch_headers(address: str) -> tuple[Path, str, SafetensorsFiles] | None:
    """Bring only the configs into the cache, and read the headers of the weights where they are.

    Returns:
        As :func:`fetch`, and the tensors; None where the weights must be fetched to know: without a network, or for
        a torch pickle. Of a repository with one file the path is the name of that file.

    Raises:
        CheckpointError: as :func:`fetch`, or a header is malformed.
    """
    if _offline():
        return None
    found = _locate(address)
    path = Path(found.weights)
    shards: dict[str, frozenset[str] | None] = {found.weights: None}
    if found.weights.endswith(".json"):
        path = found.download(*found.configs, found.weights)
        shards = {**found.shards(path)}
    elif not found.weights.endswith(".safetensors"):
        return None
    elif found.configs:
        path = found.download(*found.configs)
    files = {HubFile(found.repo, found.commit, name): tensors for name, tensors in shards.items()}
    return path, found.commit, SafetensorsFiles(files)


def _locate(address: str) -> _Located:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise CheckpointError(f"{address}: not of the form hf://user/repo or hf://user/repo@revision")
    repo, revision = match.groups()
    names, commit = _list_files(repo, revision)
    inside = "unet/" if "model_index.json" in names else ""
    picked = pick_weights(frozenset(name[len(inside) :] for name in names if name.startswith(inside)))
    if picked is None:
        return _Located(repo, revision, commit, (), _only_file(address, names))
    configs = tuple(name for name in names if _CONFIGS.fullmatch(name))
    return _Located(repo, revision, commit, configs, inside + picked)


def _only_file(address: str, names: Collection[str]) -> str:
    files = sorted(name for name in names if "/" not in name and name.endswith((".safetensors", ".ckpt")))
    if len(files) == 1:
        return files[0]
    if not files:
        where = "its snapshot in the local cache" if _offline() else "the repository"
        raise CheckpointError(f"{address}: {where} holds no UNet weights that linzoo reads")
    raise CheckpointError(
        f"{address}: the repository holds several models ({', '.join(files)});"
        " download the one you mean and name the file"
    )


def _list_files(repo: str, revision: str | None) -> tuple[list[str], str]:
    """The files of the repository and its commit; without a network, those of its snapshot in the cache."""
    from huggingface_hub import HfApi

    if _offline():
        folder = _download(repo, revision, ())
        names = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]
        return sorted(names), folder.name
    with _hub_errors(repo, revision):
        info = HfApi().model_info(repo, revision=revision)
    return sorted(each.rfilename for each in info.siblings or ()), str(info.sha)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _download(repo: str, revision: str | None, names: Collection[str]) -> Path:
    """Fetch the named files and return the snapshot folder, which is named by its commit."""
    from huggingface_hub import snapshot_download

    with _hub_errors(repo, revision):
        patterns = [glob.escape(name) for name in names]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))


@contextlib.contextmanager
def _hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    where = f"hf://{repo}@{revision}" if revision else f"hf://{repo}"
    try:
        yield
    except CheckpointError:
        raise
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{where}: its owner asks you to accept terms first, at https://huggingface.co/{repo};"
            " then 'hf auth login'"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{where}: no such repository, or a private one; check the name, or log in with 'hf auth login'"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the repository has no such branch, tag or commit") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{where}: not in the local cache, and the Hub cannot be reached (offline, or HF_HUB_OFFLINE is set);"
            " run again with a network, or name a local file or folder"
        ) from error
    except Exception as error:  # the Hub client and its network layer have families of their own
        raise CheckpointError(f"{where}: cannot be fetched: {error}") from error
