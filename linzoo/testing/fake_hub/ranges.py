"""Range requests (RFC 9110, section 14), as a storage serves them: one range, from the front or the back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from linzoo.testing.fake_hub.contents import Content
from linzoo.testing.fake_hub.messages import Answer, Call, FilePart, HttpError

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


def select_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the number of bytes that a Range header asks for.

    Args:
        header: None where there is none.
        size: of the whole file.

    Returns:
        None for the whole file: without a header, or for one that is malformed or names several ranges, which a
        server may ignore.

    Raises:
        HttpError: 416, no byte of the file is in the range.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or found[0] == "bytes=-":
        return None
    first, last = found.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if start >= stop:
        raise HttpError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, stop - start


def file_answer(call: Call, content: Content, size: int, headers: Mapping[str, str]) -> Answer:
    """A file, or the range of it that the request asks for."""
    selected = select_range(call.headers.get("Range"), size) if call.method == "GET" else None
    start, length = selected or (0, size)
    body = (
        FilePart(content, start, length)
        if isinstance(content, Path)
        else memoryview(content)[start : start + length].tobytes()
    )
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    if selected is None:
        return Answer(200, body, headers)
    return Answer(206, body, {**headers, "Content-Range": f"bytes {start}-{start + length - 1}/{size}"})
