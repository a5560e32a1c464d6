"""What can go wrong between a client and the Hub, on request."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["status", "drop-before", "drop-after", "cut-body", "slow-body", "redirect"]


@dataclass(frozen=True, eq=False)
class Fault:
    """Something that goes wrong with the next requests that match.

    ``status``: the request is refused with a status, and nothing is done.
    ``drop-before``: the connection is closed without an answer, and nothing is done.
    ``drop-after``: the request is carried out, and the connection is closed without an answer.
    ``cut-body``: the headers promise all, half of the body comes, and the connection is closed.
    ``slow-body``: the body comes in sixteen pieces, and its second half only after ``release``.
    ``redirect``: the request is sent on to the same path on the storage's host (307).

    Attributes:
        at: how many matching requests pass unharmed before the first that is hit.
        method: only requests of this method match.
        path: only requests match in whose path, unquoted, this regular expression is found.
        times: how many matching requests are hit, one after the other.
        status: of a ``status`` fault.
        retry_after: seconds of its Retry-After header.
        release: a ``slow-body`` waits for it; None to wait for nothing. Leaving the hub sets it.
        struck: is set when the first request is hit.
    """

    kind: Kind
    at: int = 0
    method: str | None = None
    path: str | None = None
    times: int = 1
    status: int = 500
    retry_after: int | None = None
    release: threading.Event | None = None
    struck: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no kind of fault: {self.kind!r}; there are {', '.join(get_args(Kind))}")

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is one of those that it counts."""
        return self.method in (None, method) and re.search(self.path or "", path) is not None


class Faults:
    """The faults that were injected, each with its count of matching requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Fault, int] = {}

    def inject(self, fault: Fault) -> None:
        """Let it count from the next request on."""
        with self._lock:
            self._seen[fault] = 0

    def clear(self) -> None:
        """Forget all, and let go what they hold."""
        with self._lock:
            for fault in self._seen:
                if fault.release is not None:
                    fault.release.set()
            self._seen.clear()

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, which every fault counts; the one injected first wins."""
        hit = None
        with self._lock:
            for fault, seen in self._seen.items():
                if fault.matches(method, path):
                    self._seen[fault] = seen + 1
                    if hit is None and fault.at <= seen < fault.at + fault.times:
                        hit = fault
        if hit is not None:
            hit.struck.set()
        return hit
