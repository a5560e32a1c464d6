"""Where contents are kept: small ones in memory, large files in a folder or where the test has them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from linzoo.testing.fake_hub.contents import (
    Content,
    StoredFile,
    large_file,
    pieces_of,
    regular_file,
    sha256_of,
    size_of,
)
from linzoo.testing.fake_hub.messages import HttpError


class Storage:
    """Contents by their hashes.

    Args:
        folder: for what is uploaded to large file storage.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._regular: dict[str, Content] = {}
        self._large: dict[str, Content] = {}

    def add(self, content: Content, *, lfs: bool) -> StoredFile:
        """Keep a content of the test's; of a path, only where it is."""
        if lfs:
            sha256 = sha256_of(content)
            self._large.setdefault(sha256, content)
            return large_file(sha256, size_of(content))
        file = regular_file(content)
        self._regular.setdefault(file.oid, content)
        return file

    def content(self, file: StoredFile) -> Content:
        """The content of a file of a repository."""
        return self._regular[file.oid] if file.sha256 is None else self._large[file.sha256]

    def read(self, file: StoredFile) -> bytes:
        """The content of a file of a repository, in memory."""
        content = self.content(file)
        return content if isinstance(content, bytes) else content.read_bytes()

    def large(self, sha256: str) -> Content | None:
        """A content in large file storage; None where there is none of that hash."""
        return self._large.get(sha256)

    def receive(self, sha256: str, pieces: Iterable[bytes]) -> None:
        """Keep what is uploaded to large file storage.

        Raises:
            HttpError: 400, it has another hash.
        """
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != sha256:
            Path(file.name).unlink()
            raise HttpError(400, "The SHA256 of the content is not the one that it was announced with.")
        self._large[sha256] = Path(file.name).replace(self._folder / sha256)

    def receive_part(self, sha256: str, number: int, pieces: Iterable[bytes]) -> str:
        """Keep a part of an upload in parts, and name it by the md5 of it, as a storage does."""
        digest = hashlib.md5()
        with self._part(sha256, number).open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()

    def join_parts(self, sha256: str, numbers: list[int]) -> None:
        """Make one content of its parts.

        Raises:
            HttpError: 400, a part is missing, or the whole has another hash.
        """
        parts = [self._part(sha256, number) for number in numbers]
        if not all(part.exists() for part in parts):
            raise HttpError(400, "A part of the upload is missing.")
        self.receive(sha256, (piece for part in parts for piece in pieces_of(part)))
        for part in parts:
            part.unlink(missing_ok=True)

    def _part(self, sha256: str, number: int) -> Path:
        return self._folder / f"{sha256}.{number}"
