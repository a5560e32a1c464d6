"""A repository: commits, the refs that point to them, and its discussions."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from linzoo.testing.fake_hub.contents import StoredFile
from linzoo.testing.fake_hub.discussions import Discussion, now
from linzoo.testing.fake_hub.messages import HttpError

BRANCHES, TAGS, PULL_REQUESTS = "refs/heads/", "refs/tags/", "refs/pr/"
MAIN = BRANCHES + "main"


Tree = Mapping[str, StoredFile]
Edit = Callable[[dict[str, StoredFile]], None]
"""Changes files in place, and raises where it cannot."""


@dataclass(frozen=True)
class Commit:
    """What all files were at one time."""

    id: str
    parent: str | None
    tree: Tree
    title: str
    message: str
    date: str


class Repository:
    """A repository; the ids of its commits follow from what is in them, so that a test sees the same ones each time.

    Args:
        kind: model, dataset or space.
        name: with the namespace, ``user/name``.
        tree: the files of the first commit.
    """

    def __init__(self, kind: str, name: str, *, private: bool, tree: Tree) -> None:
        self.kind, self.name, self.private, self.gated = kind, name, private, False
        self.created = now()
        self.lock = threading.RLock()
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.discussions: dict[int, Discussion] = {}
        self.refs[MAIN] = self._add(None, dict(tree), "initial commit").id

    @property
    def namespace(self) -> str:
        """The user or organization that it belongs to."""
        return self.name.partition("/")[0]

    def head(self) -> Commit:
        """The newest commit of the main branch."""
        return self.commits[self.refs[MAIN]]

    def ref(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request; None where there is none."""
        for ref in (revision, BRANCHES + revision, TAGS + revision):
            if ref in self.refs:
                return ref
        return None

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, tag, pull request, or (shortened) commit id."""
        ref = self.ref(revision)
        if ref is not None:
            return self.commits[self.refs[ref]]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = [commit for id, commit in list(self.commits.items()) if id.startswith(revision)]
            return found[0] if len(found) == 1 else None
        return None

    def history(self, commit: Commit) -> Iterator[Commit]:
        """A commit and all before it, the newest first."""
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def last_change(self, path: str, commit: Commit) -> Commit:
        """The commit that made a file, or the files under a folder, what they are in ``commit``."""

        def below(tree: Tree) -> dict[str, StoredFile]:
            return {name: file for name, file in tree.items() if name == path or name.startswith(path + "/")}

        last = commit
        for each in self.history(commit):
            if below(each.tree) != below(commit.tree):
                break
            last = each
        return last

    def _add(self, parent: str | None, tree: Tree, title: str, message: str = "") -> Commit:
        """Make a commit, to which no ref points yet."""
        files = [(path, file.oid) for path, file in sorted(tree.items())]
        said = json.dumps([self.kind, self.name, parent, files, title, message, len(self.commits)])
        commit = Commit(hashlib.sha1(said.encode()).hexdigest(), parent, tree, title, message, now())
        self.commits[commit.id] = commit
        return commit

    def commit(
        self,
        ref: str,
        edit: Edit,
        title: str,
        message: str = "",
        *,
        parent: str | None = None,
    ) -> Commit:
        """Add a commit to a branch or pull request, whole or not at all.

        Args:
            ref: full name.
            edit: changes the files of the commit before in place.
            title: first line of the commit message.
            message: the rest of it.
            parent: the commit that it must follow, which may be shortened; None for whatever is there.

        Raises:
            HttpError: 412, it is another; or as ``edit`` raises.
        """
        with self.lock:
            head = self.refs[ref]
            if not head.startswith(parent or ""):
                raise HttpError(412, "A commit has happened since. Please refresh and try again.")
            commit = self._edited(self.commits[head], edit, title, message)
            self.refs[ref] = commit.id
            return commit

    def propose(self, base: Commit, edit: Edit, title: str, message: str, author: str) -> Discussion:
        """Open a pull request with one commit."""
        with self.lock:
            head = self._edited(base, edit, title, message)
            return self.open_pull_request(title, message, author, base=base, head=head, draft=False)

    def _edited(self, parent: Commit, edit: Edit, title: str, message: str) -> Commit:
        tree = dict(parent.tree)
        edit(tree)
        return self._add(parent.id, tree, title, message)

    def discuss(self, title: str, description: str, author: str) -> Discussion:
        """Open a discussion."""
        with self.lock:
            discussion = Discussion(len(self.discussions) + 1, title, author)
            discussion.comment(author, description)
            self.discussions[discussion.number] = discussion
            return discussion

    def open_pull_request(
        self, title: str, description: str, author: str, *, base: Commit, head: Commit, draft: bool
    ) -> Discussion:
        """Open a pull request to the main branch."""
        with self.lock:
            discussion = self.discuss(title, description, author)
            discussion.base = base.id
            discussion.status = "draft" if draft else "open"
            self.refs[discussion.ref] = head.id
            return discussion

    def merge(self, discussion: Discussion, author: str) -> None:
        """Bring what a pull request changes into the main branch.

        Raises:
            HttpError: 409, it is closed, or the main branch has changed one of its files in the meantime.
        """
        with self.lock:
            if not discussion.is_open:
                raise HttpError(409, f"This pull request is {discussion.status}.")
            if conflicts := self.conflicts(discussion):
                raise HttpError(409, f"This pull request has conflicts in {', '.join(conflicts)}.")
            changes = self._changes(discussion.base, self.refs[discussion.ref])

            def edit(tree: dict[str, StoredFile]) -> None:
                for path, file in changes.items():
                    if file is None:
                        tree.pop(path, None)
                    else:
                        tree[path] = file

            discussion.merge = self.commit(MAIN, edit, f"{discussion.title} (#{discussion.number})").id
            discussion.set_status(author, "merged")

    def conflicts(self, discussion: Discussion) -> list[str]:
        """The files that both a pull request and, since, the main branch have changed, and not to the same."""
        ours = self._changes(discussion.base, self.refs[MAIN])
        theirs = self._changes(discussion.base, self.refs[discussion.ref])
        return sorted(path for path in ours.keys() & theirs.keys() if ours[path] != theirs[path])

    def _changes(self, before: str | None, after: str) -> dict[str, StoredFile | None]:
        """The files that differ between two commits, as the second has them."""
        old = self.commits[before].tree if before is not None else {}
        new = self.commits[after].tree
        return {path: new.get(path) for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
