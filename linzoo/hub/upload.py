"""A push as one commit: every request that it takes, and the commit itself."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.hub.staging import Staged
from linzoo.hub.target import StoredFile, Target, stored_files

_MAIN = "main"
_LARGE = 10 << 20  # bytes that the Hub still puts into git
_SAMPLE = 512  # bytes by which it tells binary files


@dataclass(frozen=True)
class Request:
    """A request that a push makes.

    Attributes:
        method: of HTTP.
        path: on the Hub; ``<storage>`` where the Hub names the place when it is asked.
        what: what it is for.
        bytes: of files that it carries.
    """

    method: str
    path: str
    what: str
    bytes: int = 0


@dataclass(frozen=True)
class Sent:
    """A commit that holds what was pushed.

    Attributes:
        commit: its id.
        url: its page.
        pull_request: the page of the pull request that it is in; None for none.
        new: False where the repository held all of it already.
    """

    commit: str
    url: str
    pull_request: str | None
    new: bool


@dataclass(frozen=True)
class Upload:
    """A push that is ready to be made.

    Attributes:
        target: the repository as it is now.
        staged: the files.
        private: of a repository that the push makes.
        pull_request: open a pull request and leave the main branch as it is.
        message: of the commit; the title of a pull request.
    """

    target: Target
    staged: Staged
    private: bool
    pull_request: bool
    message: str

    @cached_property
    def stale(self) -> tuple[str, ...]:
        """What is deleted: files of an earlier push that this one has no more."""
        return self.target.stale(self.staged.files)

    @cached_property
    def unchanged(self) -> bool:
        """Whether the repository holds all of it already."""
        return self.target.has_branch and not self.stale and self._held_by(self.target.files)

    def requests(self) -> list[Request]:
        """Every request that :meth:`send` makes, in order, as far as the Hub's answers can be told beforehand."""
        return [] if self.unchanged else list(self._requests())

    def send(self) -> Sent:
        """Make the commit: all of it or none. What arrived of an interrupted push is not sent again.

        Raises:
            CheckpointError: the Hub refuses, cannot be reached, or somebody else has committed in the meantime.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        target = self.target
        with hub_errors(str(HubAddress(target.repo, target.branch))):
            if self.unchanged:
                return Sent(str(target.head), self._page(str(target.head)), None, new=False)
            if self.pull_request and (opened := self._opened_before()) is not None:
                return opened
            self._make_room()
            additions = [CommitOperationAdd(name, str(path)) for name, path in self.staged.files.items()]
            info = target.api.create_commit(
                target.repo,
                [*additions, *(CommitOperationDelete(name, is_folder=False) for name in self.stale)],
                commit_message=self.message,
                revision=target.branch,
                create_pr=self.pull_request,
                parent_commit=target.head,
            )
        return Sent(info.oid, info.commit_url, info.pr_url, new=True)

    def _make_room(self) -> None:
        """Make the repository, or the branch, where the push is the first to go there."""
        target = self.target
        if not target.exists:
            target.api.create_repo(
                target.repo, private=self.private or None
            )  # an organization may have a default
        if not target.has_branch:
            target.api.create_branch(target.repo, branch=str(target.branch), revision=target.head)

    def _opened_before(self) -> Sent | None:
        """The open pull request of an earlier, interrupted run of the same push."""
        target = self.target
        me = target.api.whoami()["name"]
        for each in target.api.get_repo_discussions(
            target.repo, author=me, discussion_type="pull_request", discussion_status="open"
        ):
            if each.title != self.message:
                continue
            info = target.api.model_info(target.repo, revision=each.git_reference, files_metadata=True)
            held = stored_files(info)
            if self._held_by(held) and not set(self.stale) & set(held):
                return Sent(str(info.sha), self._page(str(info.sha)), each.url, new=False)
        return None

    def _held_by(self, files: Mapping[str, StoredFile]) -> bool:
        return all(name in files and files[name].holds(path) for name, path in self.staged.files.items())

    def _page(self, commit: str) -> str:
        return f"{self.target.api.endpoint}/{self.target.repo}/commit/{commit}"

    def _requests(self) -> Iterator[Request]:
        repo, branch = self.target.repo, quote(self.target.branch or _MAIN, safe="")
        api = f"/api/models/{repo}"
        if not self.target.exists:
            visible = "private" if self.private else "public"
            yield Request("POST", "/api/repos/create", f"make the {visible} repository {repo}")
        if not self.target.has_branch:
            yield Request("POST", f"{api}/branch/{branch}", "make the branch")
        yield Request("POST", "/api/validate-yaml", "let the Hub check the model card's metadata")
        yield Request(
            "POST", f"{api}/preupload/{branch}", f"ask how each of {len(self.staged.files)} files is sent"
        )
        yield from self._large_files()
        small = {name: path for name, path in self.staged.files.items() if not _is_large(path)}
        deleted = f", delete {len(self.stale)}" if self.stale else ""
        opened = " in a new pull request" if self.pull_request else ""
        yield Request(
            "POST",
            f"{api}/commit/{branch}",
            f"commit {len(self.staged.files)} files{deleted}{opened}",
            sum(path.stat().st_size for path in small.values()),
        )

    def _large_files(self) -> Iterator[Request]:
        large = {name: path for name, path in self.staged.files.items() if _is_large(path)}
        if not large:
            return
        repo = self.target.repo
        if _sends_over_xet():
            nbytes = sum(path.stat().st_size for path in large.values())
            branch = quote(self.target.branch or _MAIN, safe="")
            yield Request("GET", f"/api/models/{repo}/xet-write-token/{branch}", "ask where large files go")
            yield Request(
                "POST", "<storage>", f"{len(large)} large files, in chunks that are not there yet", nbytes
            )
            return
        yield Request("POST", f"/{repo}.git/info/lfs/objects/batch", f"ask where {len(large)} large files go")
        for name, path in large.items():
            yield Request("PUT", "<storage>", name, path.stat().st_size)
            yield Request("POST", "<storage>", f"let the Hub check {name}")


def _sends_over_xet() -> bool:
    """Whether the Hub's client sends large files over Xet, or as Git LFS does."""
    from huggingface_hub import constants

    return importlib.util.find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET


def _is_large(path: Path) -> bool:
    """Whether the Hub keeps a file beside git: weights, whatever is binary, and whatever is large."""
    if path.suffix == ".safetensors" or path.stat().st_size > _LARGE:
        return True
    with path.open("rb") as file:
        return b"\0" in file.read(_SAMPLE)
