"""The environment variables that say which plugins are loaded, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from linzoo.registry.candidates import Candidate, normalise

ALLOW, DENY = "LINZOO_PLUGINS", "LINZOO_DISABLE_PLUGINS"
STRICT, TRACE = "LINZOO_STRICT_PLUGINS", "LINZOO_TRACE_PLUGINS"


@dataclass(frozen=True, slots=True)
class Switches:
    """Which plugins are loaded.

    Attributes:
        allow: names of the installed plugins to load; None for all. Built-ins are always allowed.
        deny: names of plugins to leave out.
        strict: the first problem ends the program.
        trace: every hook call is printed on stderr.
    """

    allow: frozenset[str] | None
    deny: frozenset[str]
    strict: bool
    trace: bool

    @classmethod
    def read(cls, env: Mapping[str, str]) -> Switches:
        """Read them from the environment."""
        return cls(
            allow=_names(env[ALLOW]) if ALLOW in env else None,
            deny=_names(env.get(DENY, "")),
            strict=_on(env.get(STRICT, "")),
            trace=_on(env.get(TRACE, "")),
        )

    def admit(self, candidate: Candidate) -> bool:
        """Say whether a candidate may be imported."""
        names = _spellings(candidate)
        if names & self.deny:
            return False
        return candidate.origin != "entry-point" or self.allow is None or bool(names & self.allow)

    def warnings(self, candidates: Iterable[Candidate]) -> list[str]:
        """Name what the variables ask for and nobody provides."""
        known = frozenset[str]().union(*(_spellings(candidate) for candidate in candidates))
        return [
            f"{variable} names '{name}', and no plugin has that name (linzoo plugins list)"
            for variable, names in ((ALLOW, self.allow or ()), (DENY, self.deny))
            for name in sorted(names)
            if name not in known
        ]


def _names(value: str) -> frozenset[str]:
    return frozenset(normalise(name) for name in value.split(",") if name.strip())


def _spellings(candidate: Candidate) -> frozenset[str]:
    return frozenset({normalise(candidate.dist), normalise(candidate.name)})


def _on(value: str) -> bool:
    return value.strip().lower() not in {"", "0", "false", "no", "off"}
