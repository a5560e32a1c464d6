"""Xet, the storage that the client prefers: where it is, and what it holds.

The client's library can keep a storage of its own in a folder (``local://``), so no server of it is needed: the Hub
only says where the folder is, and finds there which Xet hash belongs to the sha256 of a committed file. Such a file goes
into large file storage too, whence those get it who do not use Xet, with ranges, as over the bridge of the real Hub.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from linzoo.testing.fake_hub.access import readable, writable
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.repository import Commit, Repository
from linzoo.testing.fake_hub.routing import Router
from linzoo.testing.fake_hub.state import State

router = Router()

_LIFETIME = 3600
_HEADER, _ENTRY = 48, 48
_END = b"\xff" * 32
_HAS_VERIFICATION, _HAS_SHA256 = 1 << 31, 1 << 30


@router.on("GET", "/api/{kind}/{repo}/xet-write-token/{revision}")
def write_token(call: Call) -> Answer:
    """Where to upload to."""
    writable(call, through_pull_request=True)
    return _token(call)


@router.on("GET", "/api/{kind}/{repo}/xet-read-token/{revision}")
def read_token(call: Call) -> Answer:
    """Where to download from."""
    readable(call)
    return _token(call)


def _token(call: Call) -> Answer:
    if call.hub.cas is None:
        raise HttpError(404, "This Hub has no Xet storage.")
    where, until = f"local://{call.hub.cas}", int(time.time()) + _LIFETIME
    headers = {
        "X-Xet-Cas-Url": where,
        "X-Xet-Access-Token": "xet",
        "X-Xet-Token-Expiration": str(until),
    }
    return json_answer({"casUrl": where, "accessToken": "xet", "exp": until}, headers=headers)


def xet_headers(call: Call, repository: Repository, commit: Commit, sha256: str) -> Mapping[str, str]:
    """What tells the client that a file can be had from the Xet storage; empty where it cannot."""
    xet_hash = xet_hashes(call.hub).get(sha256)
    if xet_hash is None:
        return {}
    route = f"{call.hub.url}/api/{repository.kind}s/{repository.name}/xet-read-token/{commit.id}"
    return {"X-Xet-Hash": xet_hash, "X-Xet-Refresh-Route": route}


def receive(hub: State, sha256: str) -> None:
    """Put a file that the Xet storage holds into large file storage."""
    xet_hash = xet_hashes(hub).get(sha256)
    if hub.cas is None or xet_hash is None:
        return
    from hf_xet import XetFileInfo, XetSession  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(dir=hub.cas.parent) as copy:
        unfinished = shutil.ignore_patterns(".*")
        shutil.copytree(hub.cas, copy, copy_function=_copy_or_link, ignore=unfinished, dirs_exist_ok=True)
        with XetSession().new_download_stream_group(endpoint=f"local://{copy}") as group:
            hub.storage.receive(sha256, group.download_stream(XetFileInfo(xet_hash)))


def _copy_or_link(source: str, target: str) -> None:
    """Copy the index of a storage, which the library of a client may hold locked; link what stays as it is."""
    (shutil.copyfile if source.endswith(".redb") else os.link)(source, target)


def xet_hashes(hub: State) -> dict[str, str]:
    """The Xet hash of every file in the storage, by its sha256."""
    if hub.cas is None:
        return {}
    return {sha256: xet for shard in hub.cas.rglob("*.mdb") for sha256, xet in _read_shard(shard)}


def _read_shard(path: Path) -> Iterator[tuple[str, str]]:
    """The sha256 and Xet hash of every file that a shard describes.

    A shard is a header, then for each file an entry (hash, flags, number of segments), its segments, as many
    verification entries and its sha256, 48 bytes each.
    """
    data = path.read_bytes()
    place = _HEADER
    while place + _ENTRY <= len(data) and data[place : place + 32] != _END:
        flags, segments = struct.unpack_from("<II", data, place + 32)
        xet = _hex(data[place : place + 32])
        place += _ENTRY * (1 + segments * (2 if flags & _HAS_VERIFICATION else 1))
        if flags & _HAS_SHA256:
            yield _hex(data[place : place + 32]), xet
            place += _ENTRY


def _hex(hash: bytes) -> str:
    """A hash as Xet writes it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", hash))
