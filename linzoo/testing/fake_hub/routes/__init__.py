"""What the Hub answers, a file for each family of addresses."""

from __future__ import annotations

import dataclasses

from linzoo.testing.fake_hub.messages import Answer, Call, HttpError
from linzoo.testing.fake_hub.routes import (
    accounts,
    cards,
    commits,
    discussions,
    files,
    lfs,
    refs,
    repositories,
    xet,
)
from linzoo.testing.fake_hub.routing import Router

_ROUTER = Router(
    module.router for module in (accounts, repositories, cards, files, commits, lfs, refs, discussions, xet)
)


def answer(call: Call) -> Answer:
    """Answer a request; what no route knows is 404, and what a route stumbles over 500."""
    found = _ROUTER.find(call.method, call.path)
    if found is None:
        return HttpError(404, f"The fake Hub has no {call.method} {call.path}").answer()
    handle, parameters = found
    try:
        return handle(dataclasses.replace(call, parameters=parameters))
    except HttpError as error:
        return error.answer()
    except ConnectionError:
        raise
    except Exception as error:
        return HttpError(500, f"The fake Hub failed on {call.method} {call.path}: {error!r}").answer()
