"""What a validation came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from linzoo._version import __version__
from linzoo.validation.verdicts import Judged

SCHEMA = 1


@dataclass(frozen=True)
class ValidationResult:
    """What a validation came to.

    Attributes:
        suite: the suite.
        checkpoint: what was validated.
        teacher: what it was held against.
        judged: every measure with its verdict, in the order of the checks.
        notes: what else to know.
        about: variant, sizes, settings, environment and lock file, as the report shows them.
        report: the folder with ``report.html`` and ``report.json``; None where none was wanted.
    """

    suite: str
    checkpoint: str
    teacher: str
    judged: tuple[Judged, ...]
    notes: tuple[str, ...]
    about: Mapping[str, Any]
    report: Path | None

    @property
    def verdict(self) -> Literal["passed", "failed"]:
        """Failed where one bar fell."""
        return "failed" if self.failed else "passed"

    @property
    def failed(self) -> tuple[Judged, ...]:
        """The measures whose bars fell."""
        return tuple(each for each in self.judged if each.verdict == "failed")

    def __getitem__(self, name: str) -> Judged:
        """A measure by name.

        Raises:
            KeyError: the suite does not measure that.
        """
        return {each.measure.name: each for each in self.judged}[name]

    def to_json(self) -> dict[str, Any]:
        """What ``report.json`` holds."""
        counts = Counter(each.verdict for each in self.judged)
        verdicts = ("passed", "failed", "measured", "skipped")
        return {
            "schema": SCHEMA,
            "linzoo": __version__,
            "suite": self.suite,
            "verdict": self.verdict,
            "counts": {verdict: counts[verdict] for verdict in verdicts},  # type: ignore[index]
            **self.about,
            "measures": [each.to_json() for each in self.judged],
            "notes": list(self.notes),
        }
