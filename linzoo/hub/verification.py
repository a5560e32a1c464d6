"""What became of the hashes of a lock file when they were checked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.lock import LOCK_NAME
from linzoo.errors import CheckpointError

Verdict = Literal["same", "differs", "missing", "extra", "unchecked"]

_WRONG: tuple[Verdict, ...] = ("differs", "missing", "extra")
_SHOWN = 12  # digits that tell two hashes apart


@dataclass(frozen=True)
class Finding:
    """What became of one hash.

    Attributes:
        subject: whose hash it is.
        verdict: ``extra`` is for weights that the lock file does not name.
        detail: what was found, or why it could not be checked.
    """

    subject: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """What became of every hash of a lock file.

    Attributes:
        checkpoint: the folder, or the repository at its commit.
        findings: one for each hash.
    """

    checkpoint: str
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What differs, is missing or is extra."""
        return tuple(each for each in self.findings if each.verdict in _WRONG)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        counts = Counter(each.verdict for each in self.findings)
        return {
            "schema": 1,
            "checkpoint": self.checkpoint,
            "verdict": "differs" if self.wrong else "same",
            "counts": {verdict: counts[verdict] for verdict in ("same", *_WRONG, "unchecked")},
            "findings": [asdict(each) for each in self.findings],
        }


def compare_file(subject: str, record: Any, found: Digest | None) -> Finding:
    """Hold a file against what a lock file records of it.

    Args:
        subject: the file, as people are told.
        record: its SHA-256, and its size where that is recorded.
        found: what there is; None where the file is missing.

    Raises:
        CheckpointError: the record is none.
    """
    sha256 = recorded_hash(subject, record)
    if found is None:
        return Finding(subject, "missing", "recorded, and not there")
    if record.items() <= asdict(found).items():
        return Finding(subject, "same", _short(found.sha256))
    if found.sha256 == sha256:
        return Finding(subject, "differs", f"{found.bytes} bytes, recorded as {record['bytes']}")
    return compare_hash(subject, sha256, found.sha256)


def recorded_hash(subject: str, record: Any) -> str:
    """The SHA-256 in a record of a lock file.

    Raises:
        CheckpointError: there is none.
    """
    sha256 = record.get("sha256") if isinstance(record, Mapping) else None
    if not isinstance(sha256, str):
        raise CheckpointError(f"{LOCK_NAME}: records no sha256 of {subject}; the lock file is damaged")
    return sha256


def compare_hash(subject: str, recorded: str, found: str) -> Finding:
    """Hold a hash against the recorded one."""
    if found == recorded:
        return Finding(subject, "same", _short(found))
    return Finding(subject, "differs", f"{_short(found)}, recorded as {_short(recorded)}")


def _short(sha256: str) -> str:
    return sha256 if len(sha256) <= _SHOWN else f"{sha256[:_SHOWN]}…"
