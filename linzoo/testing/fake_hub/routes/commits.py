"""Asking where files must go, and committing them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from linzoo.testing.fake_hub.access import commit_at, writable
from linzoo.testing.fake_hub.attributes import attributes_of, goes_to_lfs, track
from linzoo.testing.fake_hub.contents import StoredFile, large_file, size_of
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.repository import BRANCHES, PULL_REQUESTS, Commit, Repository
from linzoo.testing.fake_hub.routes.xet import receive
from linzoo.testing.fake_hub.routing import Router
from linzoo.testing.fake_hub.state import State

router = Router()


def _target(call: Call) -> tuple[Repository, Commit]:
    """The repository and the commit that a change starts from, which others than its owner may only propose."""
    proposed = call.asked_for("create_pr") or call.parameters["revision"].startswith(PULL_REQUESTS)
    repository = writable(call, through_pull_request=proposed)
    return repository, commit_at(repository, call.parameters["revision"])


@router.on("POST", "/api/{kind}/{repo}/preupload/{revision}")
def preupload(call: Call) -> Answer:
    """How each file must be uploaded, and what is there under its name: the sha256 of a large one, else the oid."""
    _, commit = _target(call)
    attributes = attributes_of(call.hub.storage, commit.tree)
    answers = []
    for asked in call.json()["files"]:
        path, there = asked["path"], commit.tree.get(asked["path"])
        sample = base64.b64decode(asked.get("sample") or "")
        answers.append(
            {
                "path": path,
                "uploadMode": "lfs" if goes_to_lfs(attributes, path, asked["size"], sample) else "regular",
                "shouldIgnore": False,
                "oid": (there.sha256 or there.oid) if there else None,
            }
        )
    return json_answer({"files": answers})


@router.on("POST", "/api/{kind}/{repo}/commit/{revision}")
def commit(call: Call) -> Answer:
    """Commit to a branch or pull request, or with ``create_pr`` to a new one: all changes or none."""
    repository, base = _target(call)
    lines = list(_lines(call.body.read()))
    header = next((value for key, value in lines if key == "header"), {})
    title, message = header.get("summary", ""), header.get("description", "")
    parent = header.get("parentCommit")
    edit, page = _Edit(call.hub, lines), call.hub.page(repository)
    answer: dict[str, Any] = {"success": True}
    if call.asked_for("create_pr"):
        base = base if parent is None else commit_at(repository, parent)
        pull_request = repository.propose(base, edit, title, message, call.hub.user)
        answer["pullRequestUrl"] = f"{page}/discussions/{pull_request.number}"
        made = repository.refs[pull_request.ref]
    else:
        made = repository.commit(_writable_ref(call, repository), edit, title, message, parent=parent).id
    return json_answer({**answer, "commitOid": made, "commitUrl": f"{page}/commit/{made}"})


def _writable_ref(call: Call, repository: Repository) -> str:
    ref = repository.ref(call.parameters["revision"])
    if ref is None or not ref.startswith((BRANCHES, PULL_REQUESTS)):
        raise HttpError(404, f"{call.parameters['revision']} is not a branch", code="RevisionNotFound")
    if ref.startswith(PULL_REQUESTS):
        discussion = repository.discussions[int(ref.removeprefix(PULL_REQUESTS))]
        if not discussion.is_open:
            raise HttpError(403, f"This pull request is {discussion.status}.")
    return ref


def _lines(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for line in filter(None, body.splitlines()):
        try:
            said = json.loads(line)
            yield said["key"], said["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise HttpError(400, f"A line of the commit cannot be read: {error!r}") from error


class _Edit:
    """The changes of a commit, to be made to the files of the commit before it."""

    def __init__(self, hub: State, lines: list[tuple[str, dict[str, Any]]]) -> None:
        self._hub = hub
        self._storage = hub.storage
        self._lines = lines

    def __call__(self, tree: dict[str, StoredFile]) -> None:
        """Make the changes in place.

        Raises:
            HttpError: 400, a change cannot be read, or a large file was not uploaded; 404, there is no file to delete.
        """
        for key, value in self._lines:
            match key:
                case "file":
                    tree[value["path"]] = self._regular(value)
                case "lfsFile":
                    tree[value["path"]] = self._large(value)
                    track(self._storage, tree, value["path"])
                case "deletedFile":
                    if tree.pop(value["path"], None) is None:
                        raise HttpError(404, f"{value['path']} does not exist", code="EntryNotFound")
                case "deletedFolder":
                    inside = value["path"].rstrip("/") + "/"
                    for path in [path for path in tree if path.startswith(inside)]:
                        del tree[path]
                case "header":
                    pass
                case _:
                    raise HttpError(400, f"Unknown operation: {key}")

    def _regular(self, value: dict[str, Any]) -> StoredFile:
        try:
            content = base64.b64decode(value["content"], validate=True)
        except (binascii.Error, KeyError) as error:
            raise HttpError(400, f"{value.get('path')}: the content cannot be read: {error!r}") from error
        return self._storage.add(content, lfs=False)

    def _large(self, value: dict[str, Any]) -> StoredFile:
        sha256 = value["oid"]
        if self._storage.large(sha256) is None:
            receive(self._hub, sha256)
        content = self._storage.large(sha256)
        if content is None:
            raise HttpError(400, f"{value['path']}: the object {sha256} was not uploaded")
        return large_file(sha256, size_of(content))
