"""Discussions and pull requests."""

from __future__ import annotations

from typing import Any

from linzoo.testing.fake_hub.access import visible, writable
from linzoo.testing.fake_hub.discussions import Discussion
from linzoo.testing.fake_hub.messages import Answer, Call, HttpError, json_answer
from linzoo.testing.fake_hub.repository import Repository
from linzoo.testing.fake_hub.routing import Router

router = Router()


@router.on("POST", "/api/{kind}/{repo}/discussions")
def open_discussion(call: Call) -> Answer:
    """Open a discussion, or a draft of a pull request without changes."""
    repository = writable(call, through_pull_request=True)
    asked = call.json()
    title, text, author = asked["title"], asked["description"], call.hub.user
    if asked.get("pullRequest"):
        head = repository.head()
        opened = repository.open_pull_request(title, text, author, base=head, head=head, draft=True)
    else:
        opened = repository.discuss(title, text, author)
    return json_answer({"num": opened.number, "pullRequest": opened.is_pull_request})


@router.on("GET", "/api/{kind}/{repo}/discussions")
def discussions(call: Call) -> Answer:
    """All discussions, or those of a type, status or author."""
    repository = visible(call)
    type, status, author = call.asked("type"), call.asked("status"), call.asked("author")
    found = [
        _summary(repository, discussion)
        for discussion in repository.discussions.values()
        if type in (None, "all", "pull_request" if discussion.is_pull_request else "discussion")
        and status in (None, "all", "open" if discussion.is_open else "closed")
        and author in (None, discussion.author)
    ]
    return json_answer({"count": len(found), "start": 0, "discussions": found})


@router.on("GET", "/api/{kind}/{repo}/discussions/{number}")
def discussion(call: Call) -> Answer:
    """A discussion with all that was said; a pull request with its conflicts too."""
    repository = visible(call)
    found = _named(call, repository)
    answer = {**_summary(repository, found), "events": found.events}
    if found.is_pull_request:
        answer["changes"] = {"base": "refs/heads/main"}
        if found.merge is not None:
            answer["changes"]["mergeCommitId"] = found.merge
        answer["filesWithConflicts"] = repository.conflicts(found) if found.is_open else []
        answer["diff"] = ""
    return json_answer(answer)


@router.on("POST", "/api/{kind}/{repo}/discussions/{number}/comment")
def comment(call: Call) -> Answer:
    """Say something."""
    repository = writable(call, through_pull_request=True)
    event = _named(call, repository).comment(call.hub.user, call.json()["comment"])
    return json_answer({"newMessage": event})


@router.on("POST", "/api/{kind}/{repo}/discussions/{number}/status")
def set_status(call: Call) -> Answer:
    """Open or close it; those who opened it may."""
    repository = writable(call, through_pull_request=True)
    asked = call.json()
    event = _named(call, repository).set_status(call.hub.user, asked["status"])
    return json_answer({"newStatus": event})


@router.on("POST", "/api/{kind}/{repo}/discussions/{number}/title")
def set_title(call: Call) -> Answer:
    """Give it another title."""
    repository = writable(call, through_pull_request=True)
    event = _named(call, repository).set_title(call.hub.user, call.json()["title"])
    return json_answer({"newTitle": event})


@router.on("POST", "/api/{kind}/{repo}/discussions/{number}/merge")
def merge(call: Call) -> Answer:
    """Merge a pull request; the owner may."""
    repository = writable(call)
    found = _named(call, repository)
    if not found.is_pull_request:
        raise HttpError(400, "This is not a pull request.")
    repository.merge(found, call.hub.user)
    return json_answer({})


def _named(call: Call, repository: Repository) -> Discussion:
    found = repository.discussions.get(int(call.parameters["number"]))
    if found is None:
        raise HttpError(404, "Discussion not found")
    return found


def _summary(repository: Repository, discussion: Discussion) -> dict[str, Any]:
    return {
        "num": discussion.number,
        "title": discussion.title,
        "status": discussion.status,
        "author": {"name": discussion.author},
        "isPullRequest": discussion.is_pull_request,
        "createdAt": discussion.created,
        "repo": {"name": repository.name, "type": repository.kind},
    }
