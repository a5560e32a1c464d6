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

    Raises:
        CheckpointError: there is none, it is damaged, or it is of another checkpoint.
    """
    from linzoo.validation.run import REPORT_NAME

    if not (folder / REPORT_NAME).is_file():
        raise CheckpointError(
            f"{folder}: holds no {REPORT_NAME}; name the folder that 'linzoo validate --report' wrote, or leave out --report"
        )
    document = read_json(folder / REPORT_NAME)
    measures = document.get("measures")
    whole = isinstance(measures, list) and all(_is_measure(each) for each in measures)
    if not whole or not isinstance(document.get("teacher"), dict) or "verdict" not in document:
        raise CheckpointError(
            f"{folder / REPORT_NAME}: no report of linzoo, or a damaged one; validate again"
        )
    of = document.get("lock")
    if not isinstance(of, dict) or of.get("outputs") != lock["outputs"]:
        raise CheckpointError(
            f"{folder}: a report of another checkpoint ({document.get('checkpoint', {}).get('spec', 'unknown')});"
            " validate this one, or leave out --report"
        )
    return document


def has_quick(report: Mapping[str, Any], registry: Registry) -> bool:
    """Whether a report has all of the suite ``quick``, held against linzoo's own bars and not against the user's."""
    from linzoo.validation.suites import checks_of, names_of

    wanted = {name for check in checks_of("quick", registry) for name in names_of(check.value)}
    own = {each["name"] for each in report["measures"] if each.get("bar_from") != "--bar"}
    return wanted <= own


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
        str(checkpoint.address or checkpoint.path),
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
        + f"\n  'linzoo validate {spec} --teacher {report['teacher']['spec']} --suite {report['suite']}' shows all of them."
    )


def _is_measure(each: Any) -> bool:
    return isinstance(each, dict) and {"name", "verdict", "culprits", "detail"} <= set(each)
