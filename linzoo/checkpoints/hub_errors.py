"""What the Hub's client raises, told as linzoo's errors: what, where, and what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from linzoo.errors import CheckpointError, LinzooError

_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
_LOGIN = "the Hub wants a login; run 'hf auth login', or set HF_TOKEN"
_AGAIN = "see that the Hub can be reached, and run the same command again"
_MIRROR = (
    "this Hub does not take uploads over Xet, as mirrors and servers of one's own do not; set HF_HUB_DISABLE_XET=1 and run"
    " it again"
)


@contextlib.contextmanager
def hub_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the Hub into a :class:`CheckpointError`; linzoo's own errors pass.

    Args:
        where: the repository, as errors name it: ``hf://user/repo@revision``.

    Raises:
        CheckpointError: with advice for what people meet: no login, no such repository, terms to accept, no network.
    """
    try:
        yield
    except (
        LinzooError,
        TypeError,
        AttributeError,
        NameError,
        AssertionError,
    ):  # what is ours is no trouble of the Hub's
        raise
    except Exception as error:  # the client and its network layer have families of their own
        raise CheckpointError(f"{where}: {_explain(error, where)}") from error


def _explain(error: Exception, where: str) -> str:
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        repo = where.removeprefix("hf://").partition("@")[0]
        return f"its owner asks you to accept terms first, at https://huggingface.co/{repo}; then 'hf auth login'"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return _LOGIN
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one; check the name, or log in with 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such branch, tag or commit"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository has no such file at this commit; run again, or name another revision"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return (
            "not in the local cache, and the Hub cannot be reached (offline, or HF_HUB_OFFLINE is set);"
            " run again with a network, or name a local file or folder"
        )
    advice = {
        401: _LOGIN,
        403: "your token may not do this; make one that may, at https://huggingface.co/settings/tokens",
        409: "it is there already, or somebody else is changing it; look at it, and run the same command again",
        412: "somebody else has committed to it in the meantime; run the same command again",
        429: "the Hub is asked too often; wait some minutes and run the same command again",
    }.get(status or 0)
    if advice is None and status is not None and status >= 500:
        advice = (
            "the Hub has trouble of its own; run the same command again later: it goes on from what arrived"
        )
    if advice is None and _is_of_xet(error):
        advice = _MIRROR
    said = without_signatures(": ".join(dict.fromkeys(str(each).strip() for each in _chain(error))))
    return f"{said}\n  {advice or _AGAIN}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of: the client says "Error while uploading" of whatever happened to an upload."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def _status(error: BaseException) -> int | None:
    """The status that the Hub, or its storage, has answered with; None where it did not."""
    found = (getattr(getattr(each, "response", None), "status_code", None) for each in _chain(error))
    return next((status for status in found if status is not None), None)


def _is_of_xet(error: BaseException) -> bool:
    return "xet-write-token" in str(error) or "xet-read-token" in str(error)


def without_signatures(text: str) -> str:
    """A text without the query strings of its addresses: those of a storage carry signatures that open it."""
    return _SIGNED.sub(r"\1", text)
