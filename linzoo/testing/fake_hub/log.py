"""What the Hub was asked, and how much went over the wire."""

from __future__ import annotations

import threading
from dataclasses import dataclass

_PATIENCE = 5  # seconds


@dataclass(frozen=True)
class Request:
    """A request and what became of it.

    Attributes:
        path: unquoted, without the query.
        query: as it came, quoted.
        host: ``127.0.0.1`` for the Hub, ``localhost`` for its storage.
        status: of the answer; 0 where the connection was closed without one.
        received, sent: bytes of the two bodies that came and went, headers not counted.
        authorization: the token; None without one.
        range: the Range header.
        fault: the kind of the fault that hit it.
    """

    method: str
    path: str
    query: str
    host: str
    status: int
    received: int
    sent: int
    authorization: str | None
    range: str | None
    fault: str | None


class Log:
    """The requests in the order in which they came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[Request | None] = []

    def open(self) -> int:
        """Take a place in the order for a request that has come."""
        with self._changed:
            self._entries.append(None)
            return len(self._entries) - 1

    def close(self, place: int, request: Request) -> None:
        """Fill the place when the request is done."""
        with self._changed:
            self._entries[place] = request
            self._changed.notify_all()

    def requests(self) -> list[Request]:
        """Those that are done.

        A client may have its answer a moment before the server has counted it: requests in progress are waited for,
        five seconds at most.
        """
        with self._changed:
            self._changed.wait_for(lambda: None not in self._entries, timeout=_PATIENCE)
            return [request for request in self._entries if request is not None]
