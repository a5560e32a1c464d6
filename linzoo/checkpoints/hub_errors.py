"""What the Hub's client raises, told as linzoo's errors: what, where, and what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from linzoo.errors import CheckpointError, LinzooError

_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
_LOGIN = "the Hub wants a login; run 'hf auth login', or set HF_TOKEN"
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
    except LinzooError:
        raise
    except Exception as error:  # the client and its network layer have families of their own
        raise CheckpointError(f"{where}: {_explain(error, where)}") from error


def _explain(error: Exception, where: str) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
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
        412: "somebody else has committed to it in the meantime; run the same command again",
        429: "the Hub is asked too often; wait some minutes and run the same command again",
    }.get(status or 0)
    if advice is None and status is not None and status >= 500:
        advice = (
            "the Hub has trouble of its own; run the same command again later: it goes on from what arrived"
        )
    if advice is None and _is_of_xet(error):
        advice = _MIRROR
    said = without_signatures(str(error)).strip()
    return f"{said}\n  {advice}" if advice else f"cannot be reached or used: {said}"


def _is_of_xet(error: BaseException) -> bool:
    return "xet-write-token" in str(error) or "xet-read-token" in str(error)


def without_signatures(text: str) -> str:
    """A text without the query strings of its addresses: those of a storage carry signatures that open it."""
    return _SIGNED.sub(r"\1", text)
