"""A file that stays on the Hub: parts of it are read by range requests, pinned to one commit and one content."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Literal

from linzoo.checkpoints.header import Readable
from linzoo.checkpoints.hub_errors import hub_errors, of_storage, without_signatures
from linzoo.checkpoints.ranges import ByteRange, KeptRanges, join
from linzoo.errors import CheckpointError, LinzooError

_AT_ONCE = 4
"""Requests; more gain nothing at the rates of home lines, and the Hub counts them."""

_MOST_JOINED = 16 << 20
"""Bytes of one request: what a kill costs at most, times the requests at once."""

_MOST_CUTS = 5
"""Requests in a row that may bring no byte."""

SHA256 = re.compile(r"[0-9a-f]{64}")

_NEVER = threading.Event()


def ranges_folder() -> Path:
    """Where parts of files are kept: in the Hub's cache, where it gives libraries a place of their own."""
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "linzoo" / "ranges"


@dataclass(frozen=True)
class HubFile:
    """A file of a model repository; opens like a path.

    Attributes:
        repo: ``user/name``.
        commit: which state of the repository.
        name: the file in it.
        size: its bytes.
        sha256: of its content, as the Hub states it.
        place: where it would lie in the Hub's cache if it were fetched whole.
    """

    repo: str
    commit: str
    name: str
    size: int
    sha256: str
    place: Path

    def __str__(self) -> str:
        return f"hf://{self.repo}@{self.commit}/{self.name}"

    @property
    def fetched(self) -> bool:
        """Whether the whole of it has come into the Hub's cache since it was listed."""
        return self.place.is_file()

    @cached_property
    def kept(self) -> KeptRanges:
        """What of it is on this machine."""
        return KeptRanges(ranges_folder() / self.sha256)

    @contextmanager
    def open(self, mode: Literal["rb"], /) -> Iterator[Readable]:
        """Open it for reading: what is not on this machine is asked for when it is read, nothing ahead."""
        if self.fetched:
            with self.place.open(mode) as file:
                yield file
        else:
            yield _Reader(self)

    def read_into(self, wanted: ByteRange, buffer: memoryview) -> None:
        """Read a range into a buffer of its length, kept or not.

        Raises:
            CheckpointError: as :meth:`stream`.
        """
        if self.kept.read_into(wanted, buffer):
            return
        filled = 0
        for piece in self.stream(wanted):
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)

    def stream(self, wanted: ByteRange, stop: threading.Event = _NEVER) -> Iterator[bytes]:
        """Ask for a range and yield it piece by piece; after a cut connection it goes on where that ended.

        Args:
            wanted: the range.
            stop: ends it early when it is set.

        Raises:
            CheckpointError: the file cannot be had or is no longer what it was, the server sends no ranges, or no request
                brings anything.
        """
        position, cuts = wanted.start, 0
        with hub_errors(str(self)):
            while position < wanted.end and not stop.is_set():
                before, cut = position, None
                try:
                    for piece in self._ask(ByteRange(position, wanted.end)):
                        if stop.is_set():
                            return
                        yield piece
                        position += len(piece)
                except Exception as error:
                    if _is_final(error):
                        raise
                    cut = error
                cuts = cuts + 1 if position == before else 0
                if cuts == _MOST_CUTS:
                    raise self._no_byte(cut) from cut

    def _ask(self, wanted: ByteRange) -> Iterator[bytes]:
        """Ask once and yield what comes; the client itself tries again where there is no answer, or one that says "later"."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        url = hf_hub_url(self.repo, self.name, revision=self.commit)
        headers = build_hf_headers() | {
            "Range": f"bytes={wanted.start}-{wanted.end - 1}",
            "Accept-Encoding": "identity",
        }
        broken = None
        with http_stream_backoff(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            if response.status_code != 416:  # which may mean that the file has become shorter
                hf_raise_for_status(response)
            self._check_content(response)
            hf_raise_for_status(response)
            self._check_range(response, wanted)
            try:
                yield from self._no_more_than(wanted, response.iter_bytes())
            except Exception as error:  # kept from the client, which would ask for the whole range again
                broken = error
        if broken is not None:
            raise broken

    def _check_content(self, response: Any) -> None:
        """The file must be the one that was listed; a redirect to a storage says which it is, the storage does not."""
        answers = [*response.history, response]
        linked = _first(answers, "X-Linked-Etag")
        etag = linked or _first(answers, "ETag")
        if not linked and not SHA256.fullmatch(etag):
            raise CheckpointError(
                f"{self}: the answer does not say which content it is of: the server, or a proxy before it, leaves out"
                f" what the Hub says (X-Linked-Etag); {self._otherwise}"
            )
        size = _first(answers, "X-Linked-Size") or str(self.size)
        if (etag, size) != (self.sha256, str(self.size)):
            raise CheckpointError(
                f"{self}: was listed with {self.size} bytes and SHA-256 {self.sha256}, and now has {size} bytes and the"
                f" ETag {etag}: another file has taken its place; run the same command again"
            )

    def _check_range(self, response: Any, wanted: ByteRange) -> None:
        """The answer must be what was asked for, no more and no less."""
        if response.status_code != 206:
            raise CheckpointError(
                f"{self}: a part of the file was asked for, and the whole was sent: the server, or a proxy before it,"
                f" knows no ranges; {self._otherwise}"
            )
        sent, length = (response.headers.get(name) for name in ("Content-Range", "Content-Length"))
        expected = f"bytes {wanted.start}-{wanted.end - 1}/{self.size}"
        if sent != expected or length not in (
            None,
            str(len(wanted)),
        ):  # a proxy may send it in chunks, without a length
            raise self._wrong(wanted, f"{sent}, {length} bytes long")

    def _no_more_than(self, wanted: ByteRange, pieces: Iterable[bytes]) -> Iterator[bytes]:
        left = len(wanted)
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise self._wrong(wanted, "more")
            yield piece

    def _wrong(self, wanted: ByteRange, sent: str) -> CheckpointError:
        return CheckpointError(
            f"{self}: bytes {wanted.start}-{wanted.end - 1} were asked for, and the answer has {sent}: the server, or a"
            " proxy before it, is at fault; run again, or from another network"
        )

    def _no_byte(self, cut: Any) -> CheckpointError:
        what, why = "the connection was cut", without_signatures(str(cut or "an empty answer"))
        if of_storage(cut):
            what, why = "its storage refused", f"status {cut.response.status_code}"
        return CheckpointError(
            f"{self}: {what} {_MOST_CUTS} times in a row before a byte came ({why}); run the same command again later: it"
            " goes on from what arrived"
        )

    @property
    def _otherwise(self) -> str:
        return f"fetch the repository with 'hf download {self.repo}' and name its folder"


def _is_final(error: Exception) -> bool:
    """Whether it is an answer, and no cut.

    Threads share a session, which the client closes below them when one of them cannot connect: an error may be of any kind.
    A storage that refuses may do so because its address has expired; the next request gets a new one.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, LinzooError | HfHubHTTPError) and not of_storage(error)


def _first(answers: Iterable[Any], header: str) -> str:
    found = next((each.headers[header] for each in answers if header in each.headers), "")
    return found.removeprefix("W/").strip('"')


def fetch(wanted: Mapping[HubFile, Iterable[ByteRange]], advance: Callable[[int], None]) -> None:
    """Keep ranges of files, several at once; neighbours come in one request.

    Args:
        wanted: by file, what is not kept yet.
        advance: told how many more bytes are here, piece by piece.

    Raises:
        CheckpointError: as :meth:`HubFile.stream`, or the disk refuses; what arrived stays for the next run.
    """
    jobs: SimpleQueue[tuple[HubFile, ByteRange]] = SimpleQueue()
    for file, ranges in wanted.items():
        for each in join(ranges, _MOST_JOINED):
            jobs.put((file, each))
    news: SimpleQueue[Any] = SimpleQueue()  # bytes, an error, or None where a thread ends
    stop = threading.Event()

    def work() -> None:
        with suppress(Empty):
            while not stop.is_set():
                file, each = jobs.get_nowait()
                try:
                    file.kept.keep(each, _counted(file.stream(each, stop), news.put))
                except Exception as error:
                    news.put(error)
                    _empty(jobs)  # the others end what they are at, and begin nothing
        news.put(None)

    errors: list[Exception] = []
    try:
        for _ in range(
            _AT_ONCE
        ):  # no executor: Python waits for its threads, even for one that waits for the network
            threading.Thread(target=work, name="linzoo-fetch", daemon=True).start()
        for _ in range(_AT_ONCE):
            for told in iter(news.get, None):
                if isinstance(told, Exception):
                    errors.append(told)
                else:
                    advance(told)
    except BaseException:  # an interruption
        stop.set()
        raise
    if errors:
        raise errors[0]


def _counted(pieces: Iterable[bytes], count: Callable[[int], None]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        count(len(piece))


def _empty(jobs: SimpleQueue[Any]) -> None:
    with suppress(Empty):
        while True:
            jobs.get_nowait()


class _Reader:
    """A :class:`HubFile` read from a place in it."""

    def __init__(self, file: HubFile) -> None:
        self._file = file
        self._position = 0

    def read(self, size: int, /) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def readinto(self, buffer: memoryview, /) -> int:
        wanted = ByteRange(self._position, min(self._position + len(buffer), self._file.size))
        self._file.read_into(wanted, buffer[: len(wanted)])
        self._position = wanted.end
        return len(wanted)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position
