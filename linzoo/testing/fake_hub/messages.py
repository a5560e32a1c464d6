"""A request as the routes see it, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linzoo.testing.fake_hub.state import State

PIECE = 1 << 20
"""Bytes that are held in memory at once of a large file."""


@dataclass(frozen=True)
class FilePart:
    """A piece of a file on disk, to be sent from where it is."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Answer:
    """What goes back: a status, headers and a body, which is left away for HEAD."""

    status: int = 200
    body: bytes | FilePart = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return self.body.length if isinstance(self.body, FilePart) else len(self.body)


def json_answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer whose body is JSON."""
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class HttpError(Exception):
    """A request that is refused; the client turns the code into one of its errors.

    Attributes:
        code: of the ``X-Error-Code`` header: RepoNotFound, RevisionNotFound, EntryNotFound or GatedRepo.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    def answer(self) -> Answer:
        """The answer that tells it, as the Hub does: in headers and in the body."""
        headers = {**self.headers, "X-Error-Message": self.message}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        return json_answer({"error": self.message}, status=self.status, headers=headers)


class Body:
    """The body of a request, with a length or in chunks; what no route reads is read away by :meth:`drain`.

    Attributes:
        received: bytes of it that were read so far.
    """

    def __init__(self, stream: BufferedIOBase, headers: Message) -> None:
        self.received = 0
        chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = int(headers.get("Content-Length") or 0)
        self._pieces = _chunks(stream) if chunked else _exactly(stream, length)

    def pieces(self) -> Iterator[bytes]:
        """What is left of it, at most :data:`PIECE` bytes at a time."""
        for piece in self._pieces:
            self.received += len(piece)
            yield piece

    def read(self) -> bytes:
        """All that is left of it."""
        return b"".join(self.pieces())

    def drain(self) -> None:
        """Read away what is left of it, so that the connection can serve another request."""
        for _ in self.pieces():
            pass


def _exactly(stream: BufferedIOBase, length: int) -> Iterator[bytes]:
    while length:
        piece = stream.read(min(length, PIECE))
        if not piece:
            raise ConnectionError("the client left in the middle of a body")
        length -= len(piece)
        yield piece


def _chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    while size := int(stream.readline().partition(b";")[0] or b"0", 16):
        yield from _exactly(stream, size)
        stream.readline()
    stream.readline()


@dataclass(frozen=True)
class Call:
    """A request on its way through a route.

    Attributes:
        path: quoted, as it came, without the query.
        token: of the Authorization header; None without one.
        parameters: the variable parts of the path, unquoted.
    """

    hub: State
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: Body
    token: str | None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def asked(self, name: str) -> str | None:
        """A value of the query; None where it is not given."""
        return self.query.get(name, [None])[0]

    def asked_for(self, name: str) -> bool:
        """Whether a switch of the query is on."""
        return (self.asked(name) or "").lower() in ("1", "true")

    def json(self) -> Any:
        """The body, which is JSON.

        Raises:
            HttpError: 400, it is not.
        """
        try:
            return json.loads(self.body.read())
        except ValueError as error:
            raise HttpError(400, f"Invalid JSON: {error}") from error
