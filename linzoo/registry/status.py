"""What became of each plugin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from linzoo.registry.candidates import Candidate, Origin
from linzoo.registry.problems import Problem

State = Literal["ok", "disabled", "broken", "not loaded"]


@dataclass(slots=True, eq=False)
class PluginStatus:
    """One plugin: where it came from, what it provides, and what is wrong with it.

    Attributes:
        state: ``"broken"`` and ``"disabled"`` plugins provide nothing.
        problems: errors, which make it broken, and warnings, which do not.
        hooks: the hooks that it implements.
        provides: ids of its entries, by kind as in ``linzoo list``.
        ms: how long it took to load.
        error: the exception that broke it.
    """

    candidate: Candidate
    state: State = "ok"
    problems: list[Problem] = field(default_factory=list)
    hooks: tuple[str, ...] = ()
    provides: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ms: float = 0.0
    error: BaseException | None = None

    @property
    def name(self) -> str:
        """The distribution, or the module of a built-in or a file."""
        return self.candidate.dist

    @property
    def version(self) -> str:
        """The version of the distribution; empty for a file."""
        return self.candidate.version

    @property
    def origin(self) -> Origin:
        """How it was found."""
        return self.candidate.origin

    @property
    def label(self) -> str:
        """Name and version, as messages call it."""
        return f"{self.name} {self.version}".strip()

    @property
    def problem(self) -> str:
        """The first problem in one line; empty where there is none."""
        return self.problems[0].line if self.problems else ""

    def note(self, problem: Problem) -> None:
        """Add a problem; an error takes the plugin out."""
        self.problems.append(problem)
        if problem.severity == "error":
            self.state = "broken"
            self.provides = {}
