"""Branches, tags and history."""

from __future__ import annotations

from linzoo.testing.fake_hub.access import commit_at, visible, writable
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.repository import BRANCHES, MAIN, PULL_REQUESTS, TAGS, Repository
from linzoo.testing.fake_hub.routing import Router

router = Router()


@router.on("GET", "/api/{kind}/{repo}/refs")
def refs(call: Call) -> Answer:
    """All branches and tags, and with ``include_prs`` the pull requests."""
    repository = visible(call)
    found = {"branches": _below(repository, BRANCHES), "tags": _below(repository, TAGS), "converts": []}
    if call.asked_for("include_prs"):
        found["pullRequests"] = _below(repository, PULL_REQUESTS)
    return json_answer(found)


def _below(repository: Repository, kind: str) -> list[dict[str, str]]:
    return [
        {"name": ref.removeprefix(kind), "ref": ref, "targetCommit": commit}
        for ref, commit in list(repository.refs.items())
        if ref.startswith(kind)
    ]


@router.on("GET", "/api/{kind}/{repo}/commits/{revision}")
def history(call: Call) -> Answer:
    """The commits that led to a revision, the newest first."""
    repository = visible(call)
    commits = repository.history(commit_at(repository, call.parameters["revision"]))
    return json_answer(
        [
            {
                "id": commit.id,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": call.hub.user}],
            }
            for commit in commits
        ]
    )


@router.on("POST", "/api/{kind}/{repo}/branch/{name}")
def create_branch(call: Call) -> Answer:
    """Start a branch at a revision."""
    return _create(call, BRANCHES + call.parameters["name"], call.json().get("startingPoint") or "main")


@router.on("POST", "/api/{kind}/{repo}/tag/{revision}")
def create_tag(call: Call) -> Answer:
    """Give a revision a name that stays."""
    return _create(call, TAGS + call.json()["tag"], call.parameters["revision"])


def _create(call: Call, ref: str, start: str) -> Answer:
    repository = writable(call)
    with repository.lock:
        if ref in repository.refs:
            raise HttpError(409, f"Reference {ref} already exists")
        repository.refs[ref] = commit_at(repository, start).id
    return json_answer({})


@router.on("DELETE", "/api/{kind}/{repo}/branch/{name}")
def delete_branch(call: Call) -> Answer:
    """Forget a branch; the main one stays."""
    return _delete(call, BRANCHES + call.parameters["name"])


@router.on("DELETE", "/api/{kind}/{repo}/tag/{name}")
def delete_tag(call: Call) -> Answer:
    """Forget a tag."""
    return _delete(call, TAGS + call.parameters["name"])


def _delete(call: Call, ref: str) -> Answer:
    repository = writable(call)
    if ref == MAIN:
        raise HttpError(403, "The main branch cannot be deleted")
    if repository.refs.pop(ref, None) is None:
        raise HttpError(404, f"Invalid rev id: {ref}", code="RevisionNotFound")
    return json_answer({})
