"""A model on the Hugging Face Hub: what of its repository makes it, fetched into the Hub's cache or read where it is."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.folder import PIPELINE_CONFIG, pick_weights, read_json, shards_of
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.remote import SHA256, HubFile
from linzoo.checkpoints.remote_tensors import RemoteTensors
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import BlobLfsInfo

_CONFIGS = re.compile(
    r"model_index\.json|config\.json|linzoo\.lock\.json|[\w.-]+/(?:config|scheduler_config)\.json"
)


@dataclass(frozen=True)
class HubModel:
    """What makes the model in a repository.

    Attributes:
        address: as the user wrote it, and with the one file where the repository is used for that.
        commit: what its revision is now.
        whole: whether the repository is the model, as a diffusers folder; else it is used for its one file.
        configs: small files that go with the weights.
        weights: the weights file or shard index.
        stated: what the Hub states of the files that it keeps in its large-file storage, as it does with all weights.
    """

    address: HubAddress
    commit: str
    whole: bool
    configs: tuple[str, ...]
    weights: str
    stated: Mapping[str, Digest]

    def fetch(self) -> Path:
        """Bring configs and weights into the cache; return the folder there, or the one file.

        Raises:
            CheckpointError: they cannot be had, or the shard index is malformed.
        """
        folder = self._download(*self.configs, self.weights)
        if self.weights.endswith(".json"):
            self._download(*self._shards(folder))
        return folder if self.whole else folder / self.weights

    def open(self) -> tuple[Path, RemoteTensors] | None:
        """Bring the configs alone into the cache and read the headers of the weights where they are.

        Returns:
            What :meth:`fetch` would return, and the tensors; None where the weights must be fetched to know: without a
            network, for a torch pickle, for weights outside the large-file storage.

        Raises:
            CheckpointError: as :meth:`fetch`, or a header is malformed.
        """
        if _offline():
            return None
        folder = self._snapshot()
        shards: dict[str, frozenset[str] | None] = {self.weights: None}
        index = (self.weights,) if self.weights.endswith(".json") else ()
        if self.configs or index:
            folder = self._download(*self.configs, *index)
        if index:
            shards = {**self._shards(folder)}
        if not all(name.endswith(".safetensors") and name in self.stated for name in shards):
            return None
        files = {self._file(folder, name): tensors for name, tensors in shards.items()}
        return folder if self.whole else folder / self.weights, RemoteTensors(files)

    def _file(self, folder: Path, name: str) -> HubFile | Path:
        place, stated = folder / name, self.stated[name]
        content = folder.parents[1] / "blobs" / stated.sha256
        if not place.is_file() and content.is_file() and content.stat().st_size == stated.bytes:
            self._download(name)  # which links what has come with another commit
        if place.is_file():
            return place
        return HubFile(self.address.repo, self.commit, name, stated.bytes, stated.sha256, place)

    def _shards(self, folder: Path) -> dict[str, frozenset[str]]:
        """The shards of the index, which is fetched, by their names in the repository."""
        index = folder / self.weights
        inside = self.weights[: self.weights.rfind("/") + 1]
        found = shards_of(read_json(index), str(index))
        return {inside + shard: tensors for shard, tensors in found.items()}

    def _snapshot(self) -> Path:
        """Where the cache has the files of this commit."""
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        name = repo_folder_name(repo_id=self.address.repo, repo_type="model")
        return Path(constants.HF_HUB_CACHE).expanduser().resolve() / name / "snapshots" / self.commit

    def _download(self, *names: str) -> Path:
        return _download(HubAddress(self.address.repo, self.commit), names)


def locate(address: HubAddress) -> HubModel:
    """Find the model in a repository.

    Raises:
        CheckpointError: the repository cannot be had, or holds no model that linzoo reads, or not the named file.
    """
    files, commit = _list_files(address)
    stated = {name: digest for name, digest in files.items() if digest is not None}
    inside = "unet/" if PIPELINE_CONFIG in files else ""
    picked = pick_weights(frozenset(name[len(inside) :] for name in files if name.startswith(inside)))
    if address.file is None and picked is not None and (inside or "config.json" in files):
        configs = tuple(name for name in files if _CONFIGS.fullmatch(name))
        return HubModel(address, commit, True, configs, inside + picked, stated)
    file = _only_file(address, files) if address.file is None else _named_file(address, files)
    sidecar = str(Path(file).with_suffix(".yaml"))
    address = replace(address, file=file)
    return HubModel(address, commit, False, (sidecar,) if sidecar in files else (), file, stated)


def _named_file(address: HubAddress, names: Collection[str]) -> str:
    file = str(address.file)
    if file not in names:
        close = difflib.get_close_matches(file, names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise CheckpointError(f"{address}: {_where()} has no such file{hint}")
    return file


def _only_file(address: HubAddress, names: Collection[str]) -> str:
    files = sorted(name for name in names if "/" not in name and name.endswith((".safetensors", ".ckpt")))
    if len(files) == 1:
        return files[0]
    if not files:
        inside = min((name for name in names if name.endswith(".safetensors")), default=None)
        hint = f"; a file in a folder of it is named so: {replace(address, file=inside)}" if inside else ""
        raise CheckpointError(f"{address}: {_where()} holds no UNet weights that linzoo reads{hint}")
    raise CheckpointError(
        f"{address}: the repository holds several models ({', '.join(files)}); name one:"
        f" {replace(address, file=files[0])}"
    )


def _list_files(address: HubAddress) -> tuple[dict[str, Digest | None], str]:
    """The files of a repository by name, and its commit; without a network, those of its snapshot in the cache."""
    from huggingface_hub import HfApi

    if _offline():
        folder = _download(address.repository, ())
        names = sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
        return dict.fromkeys(names), folder.name
    with hub_errors(str(address.repository)):
        # The client notes in its cache what the revision is, which is all that says so without a network.
        commit = HfApi().resolve_revision(address.repo, revision=address.revision).resolved
        info = HfApi().model_info(address.repo, revision=commit, files_metadata=True)
    files = {each.rfilename: _stated(each.lfs) for each in info.siblings or ()}
    return {name: files[name] for name in sorted(files)}, commit


def _stated(lfs: BlobLfsInfo | None) -> Digest | None:
    """What the Hub states of a file, if it does; the hash becomes the name of a folder."""
    return Digest(lfs.size, lfs.sha256) if lfs and SHA256.fullmatch(lfs.sha256) else None


def _where() -> str:
    return "its snapshot in the local cache" if _offline() else "the repository"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _download(address: HubAddress, names: Collection[str]) -> Path:
    """Fetch the named files and return the snapshot folder, which is named by its commit."""
    from huggingface_hub import snapshot_download

    with hub_errors(str(address)):
        patterns = [glob.escape(name) for name in names]
        return Path(snapshot_download(address.repo, revision=address.revision, allow_patterns=patterns))
