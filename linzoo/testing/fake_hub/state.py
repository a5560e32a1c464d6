"""All that the Hub remembers."""

from __future__ import annotations

import secrets
import string
import threading
from dataclasses import dataclass, field
from pathlib import Path

from linzoo.testing.fake_hub.attributes import NAME, default_attributes
from linzoo.testing.fake_hub.repository import Repository
from linzoo.testing.fake_hub.storage import Storage


def _new_token() -> str:
    return "hf_" + "".join(secrets.choice(string.ascii_letters) for _ in range(34))


@dataclass
class State:
    """The accounts, repositories and contents of a Hub.

    Attributes:
        url, cdn_url: of the Hub and of its storage.
        token, read_token: of the user.
        signature: opens the addresses of the storage, which knows no tokens.
        multipart_chunk: bytes of a part, of which larger uploads are made; None to upload all files in one.
        cas: the folder of the Xet storage; None without Xet.
    """

    user: str
    url: str
    cdn_url: str
    storage: Storage
    multipart_chunk: int | None = None
    cas: Path | None = None
    token: str = field(default_factory=_new_token)
    read_token: str = field(default_factory=_new_token)
    signature: str = field(default_factory=secrets.token_hex)
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def organization(self) -> str:
        """A second namespace that the user may write to."""
        return f"{self.user}-org"

    def create(self, kind: str, name: str, *, private: bool) -> Repository:
        """Make a repository with its ``.gitattributes``; the caller has looked that there is none."""
        attributes = self.storage.add(default_attributes(kind), lfs=False)
        repository = Repository(kind, name, private=private, tree={NAME: attributes})
        self.repositories[kind, name] = repository
        return repository

    def page(self, repository: Repository) -> str:
        """The address of a repository, as people open it."""
        prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
        return f"{self.url}/{prefix}{repository.name}"

    def signed(self, path: str) -> str:
        """An address of the storage that may be opened without a token."""
        return f"{self.cdn_url}{path}?X-Signature={self.signature}"
