"""Whether a checkpoint may be published: what a validation said of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.distillation.progress import Progress
    from linzoo.registry import Registry

_SHOWN = 3


def read_report(folder: Path, lock: Mapping[str, Any]) -> dict[str, Any]:
    """Read the report of an earlier validation of the same checkpoint.

    Every suite begins with ``quick``, so that any report will do.

    Raises:
        CheckpointError: there is none, or it is of another checkpoint.
    """
    from linzoo.validation.run import REPORT_NAME

    document = read_json(folder / REPORT_NAME)
    of = document.get("lock")
    if not isinstance(of, dict) or of.get("outputs") != lock["outputs"]:
        raise CheckpointError(
            f"{folder}: a report of another checkpoint ({document.get('checkpoint', {}).get('spec', 'unknown')});"
            " validate this one, or leave out --report"
        )
    return document


def run_quick(
    checkpoint: Checkpoint,
    teacher: str,
    lock: Mapping[str, Any],
    *,
    registry: Registry,
    progress: Progress | None,
) -> dict[str, Any]:
    """Validate with the suite ``quick``, and return what ``report.json`` would hold.

    Raises:
        LinzooError: as :func:`linzoo.validate`.
    """
    from linzoo.validation.run import validate

    detection = lock["detection"]
    return validate(
        checkpoint.path,
        teacher,
        suite="quick",
        variant=detection["variant"],
        prediction_type=detection.get("prediction_type"),
        registry=registry,
        progress=progress,
    ).to_json()


def require_passed(report: Mapping[str, Any], spec: str) -> None:
    """Refuse to publish what failed.

    Raises:
        CheckpointError: a bar fell; the message names the measures and what is at fault.
    """
    failed = [each for each in report["measures"] if each["verdict"] == "failed"]
    if report["verdict"] == "passed" and not failed:
        return
    lines = [
        f"  {each['name']}: {', '.join(each['culprits'][:_SHOWN]) or each['detail']}"
        for each in failed[:_SHOWN]
    ]
    raise CheckpointError(
        "\n".join(
            [
                f"{spec}: fails {len(failed)} of {len(report['measures'])} measures, and is not published",
                *lines,
            ]
        )
        + f"\n  'linzoo validate {spec} --teacher {report['teacher']['spec']}' shows all of them."
    )
