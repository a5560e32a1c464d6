"""The files of a revision: listing them, and getting their contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, urlencode

from linzoo.testing.fake_hub.access import commit_at, readable, visible
from linzoo.testing.fake_hub.contents import StoredFile, size_of
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.ranges import file_answer
from linzoo.testing.fake_hub.repository import Commit, Repository, Tree
from linzoo.testing.fake_hub.routes.xet import xet_headers
from linzoo.testing.fake_hub.routing import Router

router = Router()

PAGE = 1000
"""Entries that a listing gives at once."""


@router.on("GET", "/api/{kind}/{repo}/tree/{revision}")
@router.on("GET", "/api/{kind}/{repo}/tree/{revision}/{path}")
def tree(call: Call) -> Answer:
    """The files and folders in a folder; with ``recursive`` those below it too, with ``expand`` who changed them."""
    repository = visible(call)
    commit = commit_at(repository, call.parameters["revision"])
    folder = call.parameters.get("path", "").strip("/")
    names = _names(commit.tree, folder, recursive=call.asked_for("recursive"))
    if folder and not names:
        raise HttpError(
            404, f"{folder} does not exist on {call.parameters['revision']}", code="EntryNotFound"
        )
    start = int(call.asked("cursor") or 0)
    expand = call.asked_for("expand")
    page = [_entry(repository, commit, path, expand) for path in names[start : start + PAGE]]
    headers = {}
    if start + PAGE < len(names):
        query = {name: values[0] for name, values in call.query.items()} | {"cursor": start + PAGE}
        headers["Link"] = f'<{call.hub.url}{call.path}?{urlencode(query)}>; rel="next"'
    return json_answer(page, headers=headers)


@router.on("POST", "/api/{kind}/{repo}/paths-info/{revision}")
def paths_info(call: Call) -> Answer:
    """The named files and folders; those that do not exist are left out."""
    repository = visible(call)
    commit = commit_at(repository, call.parameters["revision"])
    form = parse_qs(call.body.read().decode())
    expand = form.get("expand", [""])[0].lower() == "true"
    known = {*commit.tree, *_folders(commit.tree)}
    paths = [path.strip("/") for path in form.get("paths", [])]
    return json_answer([_entry(repository, commit, path, expand) for path in paths if path in known])


def _names(tree: Tree, folder: str, *, recursive: bool) -> list[str]:
    """The files and folders in a folder, or everywhere below it."""
    inside = f"{folder}/" if folder else ""
    return sorted(
        path
        for path in {*tree, *_folders(tree)}
        if path.startswith(inside) and (recursive or "/" not in path.removeprefix(inside))
    )


def _folders(paths: Iterable[str]) -> set[str]:
    """All folders that files are in."""
    return {path[:place] for path in paths for place, letter in enumerate(path) if letter == "/"}


def _entry(repository: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    file = commit.tree.get(path)
    entry = _file_entry(path, file) if file else _folder_entry(path, commit.tree)
    if expand:
        last = repository.last_change(path, commit)
        entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
    return entry


def _file_entry(path: str, file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
    if file.sha256 is not None:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return entry


def _folder_entry(path: str, tree: Tree) -> dict[str, Any]:
    files = sorted((name, file.oid) for name, file in tree.items() if name.startswith(f"{path}/"))
    oid = hashlib.sha1(repr(files).encode()).hexdigest()
    return {"type": "directory", "path": path, "oid": oid, "size": 0}


@router.on("GET", "/{prefix}{repo}/resolve/{revision}/{path}")
def resolve(call: Call) -> Answer:
    """A file: a regular one at once, one of large file storage at a signed address there."""
    repository = readable(call)
    commit = commit_at(repository, call.parameters["revision"])
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    file = commit.tree.get(call.parameters["path"])
    if file is None:
        raise HttpError(404, "Entry not found", code="EntryNotFound", headers=headers)
    if file.sha256 is None:
        content = call.hub.storage.content(file)
        return file_answer(call, content, file.size, {**headers, "ETag": f'"{file.oid}"'})
    headers["X-Linked-Etag"] = f'"{file.sha256}"'
    headers["X-Linked-Size"] = str(file.size)
    headers["Location"] = call.hub.signed(f"/storage/{file.sha256}")
    headers.update(xet_headers(call, repository, commit, file.sha256))
    return Answer(302, b"Found. Redirecting to the storage.", {"Content-Type": "text/plain", **headers})


@router.on("GET", "/storage/{oid}")
def download(call: Call) -> Answer:
    """A large file, or a range of it, with an ETag that is not its sha256, which a storage does not know."""
    refuse_unsigned(call)
    oid = call.parameters["oid"]
    content = call.hub.storage.large(oid)
    if content is None:
        raise HttpError(404, "The specified key does not exist.")
    etag = hashlib.md5(oid.encode()).hexdigest()
    return file_answer(call, content, size_of(content), {"ETag": f'"{etag}"'})


def refuse_unsigned(call: Call) -> None:
    """Let nobody into the storage without a signature.

    Raises:
        HttpError: 403, the address is not signed by this Hub.
    """
    if call.asked("X-Signature") != call.hub.signature:
        raise HttpError(403, "The request signature does not match.")
