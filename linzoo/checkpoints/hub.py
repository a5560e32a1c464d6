"""Fetching a model from the Hugging Face Hub: only the files that linzoo reads, through the local Hub cache."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from linzoo.checkpoints.folder import pick_weights, read_json, shards_of
from linzoo.errors import CheckpointError

_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_CONFIGS = re.compile(r"model_index\.json|config\.json|[\w.-]+/(?:config|scheduler_config)\.json")


def fetch(address: str) -> tuple[Path, str]:
    """Bring the configs and the UNet weights of a Hub repository into the cache.

    Args:
        address: ``hf://user/repo`` or ``hf://user/repo@revision``.

    Returns:
        The folder (or the one ``.safetensors`` file, for a repository that holds nothing else), and the commit.

    Raises:
        CheckpointError: the address is malformed, the repository cannot be had, or holds no model that linzoo reads.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise CheckpointError(f"{address}: not of the form hf://user/repo or hf://user/repo@revision")
    repo, revision = match.groups()
    names = _list_files(repo, revision)
    folder = _download(repo, revision, [name for name in names if _CONFIGS.fullmatch(name)])
    inside = "unet/" if "model_index.json" in names else ""
    weights = pick_weights(frozenset(name[len(inside) :] for name in names if name.startswith(inside)))
    if weights is None:
        weights = _only_file(address, names)
        folder = _download(repo, revision, [weights])
        return folder / weights, folder.name
    folder = _download(repo, revision, [inside + weights])
    if weights.endswith(".json"):
        index = folder / inside / weights
        shards = shards_of(read_json(index), str(index))
        folder = _download(repo, revision, [inside + shard for shard in shards])
    return folder, folder.name


def _only_file(address: str, names: Collection[str]) -> str:
    files = sorted(name for name in names if "/" not in name and name.endswith((".safetensors", ".ckpt")))
    if len(files) == 1:
        return files[0]
    if not files:
        raise CheckpointError(f"{address}: the repository holds no UNet weights that linzoo reads")
    raise CheckpointError(
        f"{address}: the repository holds several models ({', '.join(files)});"
        " download the one you mean and name the file"
    )


def _list_files(repo: str, revision: str | None) -> list[str]:
    """The files of the repository; without a network, those of its snapshot in the cache."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        folder = _download(repo, revision, [])
        return sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file())
    with _hub_errors(repo, revision):
        return list(HfApi().list_repo_files(repo, revision=revision))


def _download(repo: str, revision: str | None, names: list[str]) -> Path:
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
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise CheckpointError(f"{where}: cannot be fetched: {error}") from error
