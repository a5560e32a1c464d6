"""Who may see and change what."""

from __future__ import annotations

from linzoo.testing.fake_hub.messages import Call, HttpError
from linzoo.testing.fake_hub.repository import Commit, Repository

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


def may_write(call: Call, namespace: str) -> bool:
    """Whether the token of the request may change what belongs to a namespace.

    Raises:
        HttpError: 401, nobody has that token.
    """
    return is_writer(call) and namespace in (call.hub.user, call.hub.organization)


def is_writer(call: Call) -> bool:
    """Whether the request has a token that may write, to its user's own.

    Raises:
        HttpError: 401, nobody has that token.
    """
    identify(call)
    return call.token == call.hub.token


def identify(call: Call) -> str | None:
    """The user who asks; None without a token.

    Raises:
        HttpError: 401, nobody has that token.
    """
    if call.token is None:
        return None
    if call.token not in (call.hub.token, call.hub.read_token):
        raise HttpError(401, "Invalid credentials in Authorization header")
    return call.hub.user


def visible(call: Call) -> Repository:
    """The repository of the request.

    Raises:
        HttpError: 401 or 404, there is none that the caller may see; the Hub does not tell the two apart.
    """
    kind = KINDS.get(call.parameters.get("kind") or call.parameters["prefix"].strip("/"), "model")
    return visible_repository(call, kind, call.parameters["repo"])


def visible_repository(call: Call, kind: str, name: str) -> Repository:
    """As :func:`visible`, for a repository that is named in another way."""
    user = identify(call)
    repository = call.hub.repositories.get((kind, name))
    hidden = repository is not None and repository.private and not _is_member(call, repository)
    if repository is None or hidden:
        if user is None:
            raise HttpError(401, "Invalid username or password.", code="RepoNotFound")
        raise HttpError(404, "Repository not found", code="RepoNotFound")
    return repository


def readable(call: Call) -> Repository:
    """The repository of the request, whose files the caller may read.

    Raises:
        HttpError: as :func:`visible`; 401 or 403, it is gated.
    """
    repository = visible(call)
    if repository.gated and not _is_member(call, repository):
        restricted = f"Access to {repository.kind} {repository.name} is restricted"
        if call.token is None:
            raise HttpError(
                401,
                f"{restricted}. You must have access to it and be authenticated to access it. Please log in.",
                code="GatedRepo",
            )
        page = call.hub.page(repository)
        raise HttpError(
            403,
            f"{restricted} and you are not in the authorized list. Visit {page} to ask for access.",
            code="GatedRepo",
        )
    return repository


def writable(call: Call, *, through_pull_request: bool = False) -> Repository:
    """The repository of the request, which the caller may change.

    Args:
        call: the request.
        through_pull_request: anyone who may see it may propose changes.

    Raises:
        HttpError: as :func:`visible`; 401 without a token; 403, the token may not write there.
    """
    repository = visible(call)
    if call.token is None:
        raise HttpError(401, "Invalid username or password.", code="RepoNotFound")
    if not is_writer(call):
        raise HttpError(403, "Forbidden: you must use a write token to upload to a repository.")
    if not through_pull_request and not may_write(call, repository.namespace):
        raise HttpError(403, f"You don't have the rights to write to {repository.kind} {repository.name}.")
    return repository


def commit_at(repository: Repository, revision: str) -> Commit:
    """The commit of a revision.

    Raises:
        HttpError: 404, there is no such revision.
    """
    commit = repository.resolve(revision)
    if commit is None:
        raise HttpError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
    return commit


def _is_member(call: Call, repository: Repository) -> bool:
    return call.token is not None and repository.namespace in (call.hub.user, call.hub.organization)
