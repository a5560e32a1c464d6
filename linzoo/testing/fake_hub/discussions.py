"""Discussions and pull requests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any


def now() -> str:
    """The time, as the Hub writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class PullRequest:
    """A pull request, as a test asks for it.

    Attributes:
        status: draft, open, closed or merged.
        revision: where its commits are, ``refs/pr/N``.
    """

    num: int
    title: str
    status: str
    revision: str


@dataclass
class Discussion:
    """A discussion, or a pull request, with what has happened in it.

    Attributes:
        base: the commit that a pull request starts from; None for a discussion.
        merge: the commit that merged it.
    """

    number: int
    title: str
    author: str
    status: str = "open"
    base: str | None = None
    merge: str | None = None
    created: str = field(default_factory=now)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ref(self) -> str:
        """Where the commits of a pull request are."""
        return f"refs/pr/{self.number}"

    @property
    def is_pull_request(self) -> bool:
        """Whether it is more than talk."""
        return self.base is not None

    @property
    def is_open(self) -> bool:
        """Whether it is neither closed nor merged; a draft is open too."""
        return self.status in ("draft", "open")

    def comment(self, author: str, text: str) -> dict[str, Any]:
        """Say something."""
        return self._add(author, "comment", {"edited": False, "hidden": False, "latest": {"raw": text}})

    def set_status(self, author: str, status: str) -> dict[str, Any]:
        """Open, close or merge it."""
        self.status = status
        return self._add(author, "status-change", {"status": status})

    def set_title(self, author: str, title: str) -> dict[str, Any]:
        """Give it another title."""
        event = self._add(author, "title-change", {"from": self.title, "to": title})
        self.title = title
        return event

    def _add(self, author: str, type: str, data: dict[str, Any]) -> dict[str, Any]:
        event = {
            "id": hashlib.sha1(f"{self.number}/{len(self.events)}".encode()).hexdigest()[:24],
            "type": type,
            "createdAt": now(),
            "author": {"name": author},
            "data": data,
        }
        self.events.append(event)
        return event
