"""The fake Hub, as a test holds it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType, TracebackType

from linzoo.testing.fake_hub.attributes import attributes_of, goes_to_lfs, track
from linzoo.testing.fake_hub.client import environment, patched_client
from linzoo.testing.fake_hub.contents import StoredFile, size_of
from linzoo.testing.fake_hub.discussions import PullRequest
from linzoo.testing.fake_hub.faults import Fault
from linzoo.testing.fake_hub.log import Request
from linzoo.testing.fake_hub.repository import BRANCHES, MAIN, Commit, Repository
from linzoo.testing.fake_hub.server import Server
from linzoo.testing.fake_hub.state import State
from linzoo.testing.fake_hub.storage import Storage

_SAMPLE = 512


class FakeHub:
    """A Hugging Face Hub on loopback, as long as its ``with`` block lasts.

    It knows one user, who may write to the namespaces ``user`` and ``user-org`` and read all that is public. Large
    files are served by a second host, as the Hub does it, so that a test sees whether a token goes where it must not.

    Args:
        store: folder for uploads; None for a temporary one.
        user: the name of the user.
        multipart_chunk: larger files are uploaded in parts of so many bytes; None to upload each in one piece.
        xet: offer the Xet storage too. Files that come through it can be had without it as well.

    Attributes:
        url, cdn_url: of the Hub, and of its storage for large files.
        token, read_token: of the user; the second is refused (403) what changes something.
    """

    url: str
    cdn_url: str
    token: str
    read_token: str

    def __init__(
        self,
        store: Path | None = None,
        *,
        user: str = "tester",
        multipart_chunk: int | None = None,
        xet: bool = False,
    ) -> None:
        self._store, self._user, self._multipart_chunk, self._xet = store, user, multipart_chunk, xet

    def __enter__(self) -> FakeHub:
        with contextlib.ExitStack() as stack:
            store = self._store
            if store is None:
                store = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fake-hub-")))
            storage = Storage(store / "lfs")
            self._server = Server()
            self.url = f"http://127.0.0.1:{self._server.port}"
            self.cdn_url = f"http://localhost:{self._server.port}"
            self._state = State(
                self._user,
                self.url,
                self.cdn_url,
                storage,
                multipart_chunk=self._multipart_chunk,
                cas=store / "xet" if self._xet else None,
            )
            self.token, self.read_token = self._state.token, self._state.read_token
            self._server.start(self._state)
            stack.callback(self._server.stop)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def environment(self, home: Path) -> dict[str, str]:
        """What to merge over ``os.environ`` for a process that is to use this Hub.

        Args:
            home: folder for the client's caches.
        """
        return environment(self.url, home, self.token, xet=self._xet)

    def client(
        self, home: Path, token: str | EllipsisType | None = ...
    ) -> contextlib.AbstractContextManager[None]:
        """Have the client of this process use this Hub while a ``with`` block lasts, and never wait to ask again.

        Args:
            home: folder for the client's caches.
            token: to be logged in with, :attr:`token` if it is left out; None for nobody.
        """
        used = self.token if isinstance(token, EllipsisType) else token
        return patched_client(self.url, home, used, xet=self._xet)

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order in which they came."""
        return self._server.log.requests()

    def inject(self, fault: Fault) -> None:
        """Let something go wrong with a request to come."""
        self._server.faults.inject(fault)

    def clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        self._server.faults.clear()

    def put(
        self,
        repo: str,
        files: Mapping[str, bytes | Path],
        *,
        repo_type: str = "model",
        private: bool = False,
        branch: str = "main",
        title: str = "seed",
    ) -> str:
        """Commit files, as their owner would; the repository and the branch are made if needed.

        Args:
            repo: with the namespace, ``user/name``.
            files: contents by their path in the repository. A file on disk is served from where it is.
            repo_type: model, dataset or space.
            private: only for a repository that is made.
            branch: starts at the main branch if it is made.
            title: of the commit.

        Returns:
            The commit.
        """
        with self._state.lock:
            repository = self._state.repositories.get((repo_type, repo))
            if repository is None:
                repository = self._state.create(repo_type, repo, private=private)

        def edit(tree: dict[str, StoredFile]) -> None:
            attributes = attributes_of(self._state.storage, tree)
            for path, content in files.items():
                lfs = goes_to_lfs(attributes, path, size_of(content), _sample(content))
                tree[path] = self._state.storage.add(content, lfs=lfs)
                if lfs:
                    track(self._state.storage, tree, path)

        with repository.lock:
            repository.refs.setdefault(BRANCHES + branch, repository.refs[MAIN])
            return repository.commit(BRANCHES + branch, edit, title).id

    def gate(self, repo: str, *, repo_type: str = "model") -> None:
        """Let nobody but its owner read the files of a repository before its terms are accepted."""
        self._repository(repo, repo_type).gated = True

    def head(self, repo: str, revision: str = "main", repo_type: str = "model") -> str | None:
        """The commit of a revision; None where there is no such repository or revision."""
        repository = self._state.repositories.get((repo_type, repo))
        commit = repository.resolve(revision) if repository is not None else None
        return commit.id if commit is not None else None

    def files(self, repo: str, revision: str = "main", repo_type: str = "model") -> dict[str, StoredFile]:
        """The files of a revision by their paths, with the ``.gitattributes`` that every repository has.

        Raises:
            KeyError: there is no such repository or revision.
        """
        return dict(self._commit(repo, revision, repo_type).tree)

    def read(self, repo: str, path: str, revision: str = "main", repo_type: str = "model") -> bytes:
        """The content of a file.

        Raises:
            KeyError: there is no such repository, revision or file.
        """
        return self._state.storage.read(self._commit(repo, revision, repo_type).tree[path])

    def pull_requests(self, repo: str, repo_type: str = "model") -> list[PullRequest]:
        """The pull requests to a repository, the oldest first.

        Raises:
            KeyError: there is no such repository.
        """
        return [
            PullRequest(each.number, each.title, each.status, each.ref)
            for each in self._repository(repo, repo_type).discussions.values()
            if each.is_pull_request
        ]

    def _repository(self, repo: str, repo_type: str) -> Repository:
        return self._state.repositories[repo_type, repo]

    def _commit(self, repo: str, revision: str, repo_type: str) -> Commit:
        commit = self._repository(repo, repo_type).resolve(revision)
        if commit is None:
            raise KeyError(f"{repo} has no revision {revision}")
        return commit


def _sample(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return content[:_SAMPLE]
    with content.open("rb") as file:
        return file.read(_SAMPLE)
