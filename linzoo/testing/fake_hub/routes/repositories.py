"""Making, deleting, listing and describing repositories."""

from __future__ import annotations

import hashlib
from typing import Any

from linzoo.testing.fake_hub.access import (
    KINDS,
    commit_at,
    may_write,
    visible,
    visible_repository,
)
from linzoo.testing.fake_hub.contents import StoredFile
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.repository import Commit, Repository
from linzoo.testing.fake_hub.routes.cards import card_of
from linzoo.testing.fake_hub.routing import Router

router = Router()


@router.on("POST", "/api/repos/create")
def create(call: Call) -> Answer:
    """Make a repository; that it exists is an error that tells its address too."""
    asked = call.json()
    kind, name = _named(call, asked)
    _refuse_unless_owner(call, kind, name)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    with call.hub.lock:
        existing = call.hub.repositories.get((kind, name))
        repository = existing or call.hub.create(kind, name, private=private)
    made = {"url": call.hub.page(repository), "name": name, "id": name}
    if existing is not None:
        told = f"You already created this {kind} repo: {name}"
        return json_answer({**made, "error": told}, status=409, headers={"X-Error-Message": told})
    return json_answer(made)


@router.on("DELETE", "/api/repos/delete")
def delete(call: Call) -> Answer:
    """Forget a repository."""
    kind, name = _named(call, call.json())
    visible_repository(call, kind, name)
    _refuse_unless_owner(call, kind, name)
    call.hub.repositories.pop((kind, name), None)
    return json_answer({})


def _named(call: Call, asked: dict[str, Any]) -> tuple[str, str]:
    return asked.get("type") or "model", f"{asked.get('organization') or call.hub.user}/{asked['name']}"


def _refuse_unless_owner(call: Call, kind: str, name: str) -> None:
    if call.token is None:
        raise HttpError(401, "Invalid username or password.")
    namespace = name.partition("/")[0]
    if not may_write(call, namespace):
        raise HttpError(
            403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
        )


@router.on("GET", "/api/{kind}/{repo}")
@router.on("GET", "/api/{kind}/{repo}/revision/{revision}")
def info(call: Call) -> Answer:
    """What a repository is at a revision; its files with sizes and hashes where the query asks for ``blobs``."""
    repository = visible(call)
    commit = commit_at(repository, call.parameters.get("revision", "main"))
    siblings = [
        {"rfilename": path, **(_blob(file) if call.asked_for("blobs") else {})}
        for path, file in sorted(commit.tree.items())
    ]
    return json_answer({**_summary(call, repository, commit), "siblings": siblings})


def _blob(file: StoredFile) -> dict[str, Any]:
    described: dict[str, Any] = {"blobId": file.oid, "size": file.size}
    if file.sha256 is not None:
        described["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return described


def _summary(call: Call, repository: Repository, commit: Commit) -> dict[str, Any]:
    card = card_of(call.hub.storage, commit.tree)
    tags = card.get("tags") if isinstance(card.get("tags"), list) else []
    return {
        "_id": hashlib.sha1(repository.name.encode()).hexdigest()[:24],
        "id": repository.name,
        "author": repository.namespace,
        "sha": commit.id,
        "lastModified": commit.date,
        "createdAt": repository.created,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": tags,
        "cardData": card,
        "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
    }


@router.on("GET", "/api/{kind}")
def search(call: Call) -> Answer:
    """The repositories whose name holds a text, of an author, or with a tag."""
    kind = KINDS[call.parameters["kind"]]
    text, author, tag = call.asked("search") or "", call.asked("author"), call.asked("filter")
    summaries = (
        _summary(call, repository, repository.head())
        for (each, _), repository in sorted(call.hub.repositories.items())
        if each == kind and _may_see(call, repository)
    )
    found = [
        summary
        for summary in summaries
        if text.lower() in summary["id"].lower()
        and author in (None, summary["author"])
        and (tag is None or tag in summary["tags"])
    ]
    return json_answer(found[: int(call.asked("limit") or len(found))])


def _may_see(call: Call, repository: Repository) -> bool:
    try:
        visible_repository(call, repository.kind, repository.name)
    except HttpError:
        return False
    return True
