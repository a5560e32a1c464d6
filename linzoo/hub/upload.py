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
    def done(self) -> Sent | None:
        """Where all of it lies already: on the branch, or in a pull request that an interrupted run has opened."""
        target = self.target
        if target.has_branch and self._holds_all(target.files):
            return Sent(str(target.head), self._page(str(target.head)), None, new=False)
        return self._opened_before() if self.pull_request else None

    def requests(self) -> list[Request]:
        """Every request that a push makes, in order, as far as the Hub's answers can be told beforehand.

        What the fresh process reads afterwards is one entry, the last.
        """
        made = [] if self.done is not None else list(self._requests())
        nbytes = sum(size for name, size in self.staged.sizes.items() if not name.endswith((".md", ".png")))
        place = f"/{self.target.repo}/resolve/<commit>/…"
        return [*made, Request("GET", place, "load it in a fresh process", nbytes)]

    def send(self) -> Sent:
        """Make the commit: all of it or none. What arrived of an interrupted push is not sent again.

        Raises:
            CheckpointError: the Hub refuses, cannot be reached, or somebody else has committed in the meantime.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        if self.done is not None:
            return self.done
        target = self.target
        with hub_errors(str(HubAddress(target.repo, target.branch)), cached=False):
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
        return Sent(info.oid, info.commit_url, info.pr_url, new=info.oid != target.head)

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
        """The user's open pull request of the same title and content."""
        target = self.target
        with hub_errors(str(HubAddress(target.repo)), cached=False):
            for each in target.api.get_repo_discussions(
                target.repo, author=target.user, discussion_type="pull_request", discussion_status="open"
            ):
                if each.title != self.message:
                    continue
                info = target.api.model_info(target.repo, revision=each.git_reference, files_metadata=True)
                if self._holds_all(stored_files(info)):
                    return Sent(str(info.sha), self._page(str(info.sha)), each.url, new=False)
        return None

    def _holds_all(self, files: Mapping[str, StoredFile]) -> bool:
        """Whether these files are what the push comes to."""
        here = self.staged.files.items()
        return not set(self.stale) & set(files) and all(self._holds(files, *each) for each in here)

    def _holds(self, files: Mapping[str, StoredFile], name: str, path: Path) -> bool:
        return name in files and files[name].holds(path)

    def _page(self, commit: str) -> str:
        return f"{self.target.api.endpoint}/{self.target.repo}/commit/{commit}"

    def _requests(self) -> Iterator[Request]:
        target, repo = self.target, self.target.repo
        branch = quote(target.branch or _MAIN, safe="")
        api = f"/api/models/{repo}"
        files = self.staged.files
        if not target.exists:
            private = ", private" if self.private else ""
            yield Request("POST", "/api/repos/create", f"make the repository {repo}{private}")
        if not target.has_branch:
            yield Request("POST", f"{api}/branch/{branch}", "make the branch")
        yield Request("POST", "/api/validate-yaml", "let the Hub check the model card's metadata")
        yield Request("POST", f"{api}/preupload/{branch}", f"ask how each of {len(files)} files is sent")
        changed = {name: path for name, path in files.items() if not self._holds(target.files, name, path)}
        large = {name for name, path in files.items() if _is_large(path)}
        if large:
            new = {name: path for name, path in changed.items() if name in large}
            yield from self._large_files(len(large), new, branch)
        if changed or self.stale:
            small = sum(path.stat().st_size for name, path in changed.items() if name not in large)
            deleted = f", delete {len(self.stale)}" if self.stale else ""
            opened = " in a new pull request" if self.pull_request else ""
            what = f"commit {len(changed)} changed files{deleted}{opened}"
            yield Request("POST", f"{api}/commit/{branch}", what, small)
        else:
            yield Request("GET", f"{api}/revision/{branch}", "see that there is nothing to commit")

    def _large_files(self, asked: int, large: Mapping[str, Path], branch: str) -> Iterator[Request]:
        """The client asks for all large files; those that the Hub has are not sent."""
        repo = self.target.repo
        if _sends_over_xet():
            nbytes = sum(path.stat().st_size for path in large.values())
            yield Request("GET", f"/api/models/{repo}/xet-write-token/{branch}", "ask where large files go")
            what = f"{len(large)} large files, in chunks that are not there yet"
            yield Request("POST", "<storage>", what, nbytes)
            return
        yield Request("POST", f"/{repo}.git/info/lfs/objects/batch", f"ask where {asked} large files go")
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
