"""What the Hub's client raises, told as linzoo's errors: what, where, and what to do."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from linzoo.errors import CheckpointError, LinzooError

_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
_MANUAL = re.compile(r"For more information check: \S+")  # what HTTP statuses are
_LOGIN = "the Hub wants a login; run 'hf auth login', or set HF_TOKEN"
_TOKEN = "the Hub refuses the token in HF_TOKEN, which goes before that of 'hf auth login'; correct it, or unset it"
_AGAIN = "see that the Hub can be reached, and run the same command again"
_CACHE = ", or set HF_HUB_OFFLINE=1 to use what is in the cache"
_STORAGE = (
    "the storage behind the Hub refuses (403), as it does when an address that the Hub gave has expired; run the same command"
    " again"
)
_ADVICE = {
    400: "the Hub refuses what was sent, for this reason; correct that, and run the same command again",
    401: _LOGIN,
    403: "your token may not do this; make one that may, at https://huggingface.co/settings/tokens",
    409: "it is there already, or somebody else is changing it; look at it, and run the same command again",
    412: "somebody else has committed to it in the meantime; run the same command again",
    429: "the Hub is asked too often; wait some minutes and run the same command again",
}
_MIRROR = (
    "this Hub does not take uploads over Xet, as mirrors and servers of one's own do not; set HF_HUB_DISABLE_XET=1 and run"
    " it again"
)


@contextlib.contextmanager
def hub_errors(where: str, *, cached: bool = True) -> Iterator[None]:
    """Turn what goes wrong on the way to the Hub into a :class:`CheckpointError`; linzoo's own errors pass.

    Args:
        where: the repository, as errors name it: ``hf://user/repo@revision``.
        cached: whether what is asked for may be in the cache, which then serves without a network.

    Raises:
        CheckpointError: with advice for what people meet: no login, no such repository, terms to accept, no network.
    """
    try:
        yield
    except (LinzooError, TypeError, AttributeError, NameError, AssertionError):
        raise  # what is ours is no trouble of the Hub's
    except Exception as error:  # the client and its network layer have families of their own
        raise CheckpointError(f"{where}: {_explain(error, where, cached)}") from error


def _explain(error: Exception, where: str, cached: bool) -> str:
    if (known := _known(error, where)) is not None:
        return known
    said = without_signatures(": ".join(dict.fromkeys(map(_in_one_line, _chain(error)))))
    return f"{said}\n  {_advice(error, cached)}"


def _known(error: Exception, where: str) -> str | None:
    """What has an error of its own in the client, in linzoo's words."""
    from huggingface_hub import errors

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
    if _status(error) == 403 and of_storage(error):
        return _STORAGE  # what the client says blames the token, which the storage is not shown
    return None


def _advice(error: Exception, cached: bool) -> str:
    status = _status(error)
    if status == 401 and os.environ.get("HF_TOKEN") and not of_storage(error):
        return _TOKEN
    too_slow = status == 400 and of_storage(error)  # as S3 says of a request that took too long
    if status in _ADVICE and not too_slow:
        return _ADVICE[status]
    if status is not None and status >= 500:
        return (
            "the Hub has trouble of its own; run the same command again later: it goes on from what arrived"
        )
    if "xet-write-token" in str(error) or "xet-read-token" in str(error):
        return _MIRROR
    return _AGAIN + _CACHE if cached and status is None and _only_asks(error) else _AGAIN


def of_storage(error: BaseException) -> bool:
    """Whether it is not the Hub that has answered, but the storage to which it sends its clients."""
    from huggingface_hub import constants

    response = _response(error)
    return response is not None and response.url.host != urlsplit(constants.ENDPOINT).hostname


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of: the client says "Error while uploading" of whatever happened to an upload."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__


def _response(error: BaseException) -> Any:
    """What the Hub, or its storage, has answered; None where it did not."""
    found = (getattr(each, "response", None) for each in _chain(error))
    return next((response for response in found if response is not None), None)


def _status(error: BaseException) -> int | None:
    return getattr(_response(error), "status_code", None)


def _only_asks(error: BaseException) -> bool:
    """Whether nothing was to be changed on the Hub by what failed, as far as the network layer says what it was."""
    for each in _chain(error):
        with contextlib.suppress(AttributeError, RuntimeError):  # not of that layer, or of no request
            return each.request.method in ("GET", "HEAD")  # type: ignore[attr-defined]
    return False


def _in_one_line(error: BaseException) -> str:
    return " ".join(_MANUAL.sub("", str(error)).split())


def without_signatures(text: str) -> str:
    """A text without the query strings of its addresses: those of a storage carry signatures that open it."""
    return _SIGNED.sub(r"\1", text)
