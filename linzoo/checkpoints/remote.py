"""A file that stays on the Hub: parts of it are read by range requests, pinned to one commit and one content."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.ranges import ByteRange, KeptRanges, join
from linzoo.errors import CheckpointError

_AT_ONCE = 4
"""Requests; more gain nothing at the rates of home lines, and the Hub counts them."""

_MOST_JOINED = 16 << 20
"""Bytes of one request: what a kill costs at most, times the requests at once."""

_MOST_CUTS = 5
"""Connections in a row that may end without a byte."""


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

    @cached_property
    def kept(self) -> KeptRanges:
        """What of it is on this machine."""
        return KeptRanges(ranges_folder() / self.sha256)

    @contextmanager
    def open(self, mode: Literal["rb"], /) -> Iterator[_Reader]:  # noqa: ARG002 -- as Path.open is called
        """Open it for reading: what is not kept is asked for when it is read, nothing ahead."""
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

    def stream(self, wanted: ByteRange) -> Iterator[bytes]:
        """Ask for a range and yield it piece by piece; after a cut connection it goes on where that ended.

        Raises:
            CheckpointError: the file cannot be had or is no longer what it was, the server sends no ranges, or every
                connection is cut.
        """
        position, cuts = wanted.start, 0
        with hub_errors(str(self)):
            while position < wanted.end:
                with self._request(ByteRange(position, wanted.end)) as response:
                    try:
                        for piece in response.iter_bytes():
                            yield piece
                            position += len(piece)
                            cuts = 0
                    except Exception as error:  # the client's network layer has a family of its own
                        cuts += 1
                        if cuts == _MOST_CUTS:
                            raise CheckpointError(
                                f"{self}: the connection was cut {cuts} times in a row before a byte came ({error});"
                                " run the same command again later: it goes on from what arrived"
                            ) from error

    @contextmanager
    def _request(self, wanted: ByteRange) -> Iterator[Any]:
        """Ask once; the client itself tries again where there is no answer, or one that says "later"."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        url = hf_hub_url(self.repo, self.name, revision=self.commit)
        headers = build_hf_headers() | {
            "Range": f"bytes={wanted.start}-{wanted.end - 1}",
            "Accept-Encoding": "identity",
        }
        with http_stream_backoff(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            if response.status_code != 416:  # which may mean that the file has become shorter
                hf_raise_for_status(response)
            self._check_content(response)
            hf_raise_for_status(response)
            self._check_range(response, wanted)
            yield response

    def _check_content(self, response: Any) -> None:
        """The file must be the one that was listed; a redirect to a storage says which it is, the storage does not."""
        answers = [*response.history, response]
        etag = _first(answers, "X-Linked-Etag") or _first(answers, "ETag") or "missing"
        size = _first(answers, "X-Linked-Size") or str(self.size)
        if (etag.removeprefix("W/").strip('"'), size) != (self.sha256, str(self.size)):
            raise CheckpointError(
                f"{self}: was listed with {self.size} bytes and SHA-256 {self.sha256}, and now has {size} bytes and the"
                f" ETag {etag}: another file has taken its place; run the same command again"
            )

    def _check_range(self, response: Any, wanted: ByteRange) -> None:
        """The answer must be what was asked for, no more and no less."""
        if response.status_code != 206:
            raise CheckpointError(
                f"{self}: a part of the file was asked for, and the whole was sent: the server, or a proxy before it,"
                f" knows no ranges; fetch the repository with 'hf download {self.repo}' and name its folder"
            )
        sent = response.headers.get("Content-Range"), response.headers.get("Content-Length")
        if sent != (f"bytes {wanted.start}-{wanted.end - 1}/{self.size}", str(len(wanted))):
            raise CheckpointError(
                f"{self}: bytes {wanted.start}-{wanted.end - 1} were asked for, and the answer has {sent[0]}, {sent[1]}"
                " bytes long: the server, or a proxy before it, is at fault; run again, or from another network"
            )


def _first(answers: Iterable[Any], header: str) -> str | None:
    return next((each.headers[header] for each in answers if header in each.headers), None)


def fetch(wanted: Mapping[HubFile, Iterable[ByteRange]], advance: Callable[[int], None]) -> None:
    """Keep ranges of files, several at once; neighbours come in one request.

    Args:
        wanted: by file, what is not kept yet.
        advance: told how many more bytes are here.

    Raises:
        CheckpointError: as :meth:`HubFile.stream`, or the disk refuses; what arrived stays for the next run.
    """
    stop = threading.Event()

    def keep(file: HubFile, wanted: ByteRange) -> None:
        file.kept.keep(wanted, takewhile(lambda _: not stop.is_set(), file.stream(wanted)))

    with ThreadPoolExecutor(_AT_ONCE, "linzoo-fetch") as pool:
        futures = {
            pool.submit(keep, file, each): len(each)
            for file, ranges in wanted.items()
            for each in join(ranges, _MOST_JOINED)
        }
        try:
            for future in as_completed(futures):
                future.result()
                advance(futures[future])
        except KeyboardInterrupt:  # an error lets the requests on their way end, and keeps what they bring
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


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
