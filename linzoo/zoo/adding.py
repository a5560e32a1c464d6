"""Adding a published checkpoint to an index: a file is written, an index on the Hub gets a pull request."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linzoo.checkpoints.address import HubAddress, on_hub
from linzoo.checkpoints.atomic import write_bytes
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.errors import CheckpointError, LinzooError, UsageError
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.index import DATASETS, INDEX_NAME, Index, dataset_of, encode_index, open_index
from linzoo.zoo.listing import VARIABLE, named_indexes
from linzoo.zoo.published import read_published

if TYPE_CHECKING:
    from huggingface_hub import Discussion, HfApi

    from linzoo.registry import Registry


@dataclass(frozen=True)
class Addition:
    """What became of an entry.

    Attributes:
        entry: the entry.
        index: where it is, or is proposed.
        outcome: ``present`` where the index had it already, ``written`` to a file, ``proposed`` in a pull request that was
            made now, ``pending`` in one that was open already.
        pull_request: the address of the pull request; None for none.
    """

    entry: ZooEntry
    index: str
    outcome: Literal["present", "written", "proposed", "pending"]
    pull_request: str | None = None


def add(checkpoint: str, index: Sequence[str | Path], registry: Registry) -> Addition:
    """Add a checkpoint, or the newer commit of one, to an index.

    Args:
        checkpoint: ``user/repo`` on the Hub, with ``@revision`` or of the main branch.
        index: where to; empty for the one that ``LINZOO_ZOO`` names.
        registry: whose plugins may ship the model that it was made for.

    Raises:
        UsageError: there is not one index to add to.
        ZooError: the checkpoint is none of linzoo's, the index is malformed, or public where the checkpoint is private.
        CheckpointError: the Hub cannot be asked, or the file cannot be written.
    """
    named = named_indexes(index)
    if len(named) != 1:
        found = f"{len(named)} are named" if named else "none is named"
        raise UsageError(
            f"name one index to add to ({found}): --index FILE, --index hf://datasets/user/name, or {VARIABLE}"
        )
    (where,) = named
    dataset = dataset_of(where)
    if dataset is None and not Path(where).suffix and on_hub(where) is not None:
        raise UsageError(
            f"{where}: write hf://datasets/{where} for an index on the Hub, or ./{where}.json for a file"
        )
    entry = read_published(_published(checkpoint), registry)
    return _write(entry, Path(where)) if dataset is None else _propose(entry, where, dataset)


def _published(checkpoint: str) -> HubAddress:
    try:
        return HubAddress.parse(checkpoint).whole()
    except CheckpointError as error:
        raise UsageError(
            f"{error}\n  An index lists what is published; 'linzoo push' publishes a folder."
        ) from error


def _write(entry: ZooEntry, path: Path) -> Addition:
    index = open_index(path) if path.exists() else Index(str(path), ())
    if index.of(entry.repo) == entry:
        return Addition(entry, str(path), "present")
    write_bytes(path, encode_index(index.with_entry(entry)))
    return Addition(entry, str(path), "written")


def _propose(entry: ZooEntry, where: str, dataset: HubAddress) -> Addition:
    """Open a pull request, or find the one that is open and can be merged, so that the command can be run again."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    title = f"Add {entry.repo} at {str(entry.commit)[:7]}"
    with hub_errors(where):
        info = api.dataset_info(dataset.repo, revision=dataset.revision)
        if not info.private:
            _require_public(api, entry, where)
        index = _index_at(api, dataset.repo, info.sha)
        if index.of(entry.repo) == entry:
            return Addition(entry, where, "present")
        proposals = [
            each
            for each in api.get_repo_discussions(
                dataset.repo, repo_type="dataset", discussion_type="pull_request", discussion_status="open"
            )
            if each.title == title and _proposes(api, dataset.repo, each.git_reference, entry)
        ]
        overtaken = [each for each in proposals if _is_overtaken(api, each)]
        if pending := [each for each in proposals if each not in overtaken]:
            done = Addition(entry, where, "pending", pending[0].url)
        else:
            commit: Any = api.create_commit(
                dataset.repo,
                [CommitOperationAdd(INDEX_NAME, encode_index(index.with_entry(entry)))],
                commit_message=title,
                repo_type="dataset",
                revision=dataset.revision,
                create_pr=True,
                parent_commit=info.sha,
            )
            done = Addition(entry, where, "proposed", commit.pr_url)
    for each in overtaken:
        _close(api, each, str(done.pull_request))
    return done


def _index_at(api: HfApi, repo: str, revision: str | None) -> Index:
    """The index at one revision of a dataset repository; an empty one where there is none yet."""
    where = f"{DATASETS}{repo}@{revision}"
    if INDEX_NAME not in api.list_repo_files(repo, repo_type="dataset", revision=revision):
        return Index(where, ())
    return open_index(where)


def _require_public(api: HfApi, entry: ZooEntry, where: str) -> None:
    with hub_errors(entry.checkpoint):
        private = api.model_info(entry.repo, revision=entry.commit).private
    if private:
        raise ZooError(
            f"{entry.repo}: private, and {where} is for everybody to read; make the repository public first, or name an"
            " index that is private too"
        )


def _is_overtaken(api: HfApi, proposal: Discussion) -> bool:
    """Whether the index has changed since at the same place, so that nobody can merge the proposal."""
    found = api.get_discussion_details(proposal.repo_id, proposal.num, repo_type="dataset")
    return bool(found.conflicting_files)


def _close(api: HfApi, proposal: Discussion, successor: str) -> None:
    """Close one's own; somebody else's stays, and what cannot be closed now is closed by the next run."""
    why = f"The index has changed at the same place since; {successor} takes the place of this one."
    with contextlib.suppress(CheckpointError), hub_errors(str(proposal.url)):
        if proposal.author == api.whoami()["name"]:
            api.change_discussion_status(
                proposal.repo_id, proposal.num, "closed", comment=why, repo_type="dataset"
            )


def _proposes(api: HfApi, repo: str, revision: str | None, entry: ZooEntry) -> bool:
    with contextlib.suppress(LinzooError):  # what somebody else proposes may be damaged
        return _index_at(api, repo, revision).of(entry.repo) == entry
    return False
