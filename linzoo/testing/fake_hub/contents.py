"""A content, and the names that git and large file storage give it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linzoo.testing.fake_hub.messages import PIECE

Content = bytes | Path
"""Bytes in memory, or a file on disk that is read a piece at a time."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit.

    Attributes:
        size: bytes.
        oid: sha1 of the git blob, which is the pointer for a file in large file storage.
        sha256: of a file in large file storage; None for a regular one.
    """

    size: int
    oid: str
    sha256: str | None

    @property
    def pointer_size(self) -> int:
        """Bytes of the pointer of a file in large file storage."""
        assert self.sha256 is not None
        return len(lfs_pointer(self.sha256, self.size))


def regular_file(content: Content) -> StoredFile:
    """The entry of a file that git keeps itself, under the sha1 of it behind a header."""
    size = size_of(content)
    digest = hashlib.sha1(b"blob %d\0" % size)
    for piece in pieces_of(content):
        digest.update(piece)
    return StoredFile(size, digest.hexdigest(), None)


def large_file(sha256: str, size: int) -> StoredFile:
    """The entry of a file in large file storage."""
    return StoredFile(size, regular_file(lfs_pointer(sha256, size)).oid, sha256)


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The small file that git keeps in place of a large one."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def sha256_of(content: Content) -> str:
    """The name that large file storage gives a content."""
    digest = hashlib.sha256()
    for piece in pieces_of(content):
        digest.update(piece)
    return digest.hexdigest()


def size_of(content: Content) -> int:
    """Bytes of a content."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def pieces_of(content: Content) -> Iterator[bytes]:
    """A content, at most :data:`PIECE` bytes at a time."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
