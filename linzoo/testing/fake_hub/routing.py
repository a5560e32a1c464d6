"""Which route answers which path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from linzoo.testing.fake_hub.messages import Answer, Call

Handle = Callable[[Call], Answer]

_VARIABLES = {
    "kind": r"models|datasets|spaces",
    "prefix": r"(?:datasets/|spaces/)?",
    "repo": r"[^/]+/[^/]+",
    "revision": r"[^/]+",
    "name": r"[^/]+",
    "path": r".+",
    "number": r"\d+",
    "oid": r"[0-9a-f]{64}",
    "action": r"[a-z]+",
}


@dataclass(frozen=True)
class _Route:
    method: str
    pattern: re.Pattern[str]
    handle: Handle


class Router:
    """Routes by method and path; a HEAD is answered by the route of the GET."""

    def __init__(self, routers: Iterable[Router] = ()) -> None:
        self._routes: list[_Route] = [route for router in routers for route in router._routes]

    def on(self, method: str, template: str) -> Callable[[Handle], Handle]:
        """Declare a route: ``@router.on("GET", "/api/{kind}/{repo}/refs")``."""
        pattern = re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{_VARIABLES[found[1]]})", template)

        def declare(handle: Handle) -> Handle:
            self._routes.append(_Route(method, re.compile(pattern), handle))
            return handle

        return declare

    def find(self, method: str, path: str) -> tuple[Handle, dict[str, str]] | None:
        """The route of a path, which is still quoted, and the variable parts of it, unquoted."""
        wanted = "GET" if method == "HEAD" else method
        for route in self._routes:
            if route.method == wanted and (found := route.pattern.fullmatch(path)):
                return route.handle, {name: unquote(part) for name, part in found.groupdict().items()}
        return None
