"""What a validation measured, sorted for a model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from linzoo.validation.suites import draws

if TYPE_CHECKING:
    from linzoo.registry import Registry

Measured = Mapping[str, Any]
"""A measure as ``report.json`` holds it."""


@dataclass(frozen=True)
class Measures:
    """The measures of a report.

    Attributes:
        soundness: those of the checks that every suite has: whether the checkpoint is sound.
        quality: the others: whether it is good, or fast.
        skipped: those of the others that were not measured.
    """

    soundness: tuple[Measured, ...]
    quality: tuple[Measured, ...]
    skipped: tuple[Measured, ...]

    @classmethod
    def of(cls, report: Mapping[str, Any] | None, registry: Registry) -> Measures:
        """Sort the measures of a report; without one there are none."""
        measures = report["measures"] if report is not None else []
        quick = {each.value.id for each in registry.checks if "quick" in each.value.suites}
        others = [each for each in measures if each["check"] not in quick]
        return cls(
            tuple(each for each in measures if each["check"] in quick),
            tuple(each for each in others if each["verdict"] != "skipped"),
            tuple(each for each in others if each["verdict"] == "skipped"),
        )


def conditions(report: Mapping[str, Any]) -> str:
    """On what it was measured, in a line."""
    settings, (width, height) = report["settings"], report["size"]
    drawing = [
        _prompts(settings),
        f"{settings['steps']} steps",
        f"guidance {settings['guidance']:g}",
        f"seeds from {settings['seed']}",
    ]
    machine = f"{settings['dtype']} on {report['environment']['device']}"
    return ", ".join([*(drawing if draws(report["suite"]) else []), f"{width}x{height} pixels", machine])


def _prompts(settings: Mapping[str, Any]) -> str:
    if settings["prompts_file"] is None:
        return f"the {settings['images']} prompts that were trained on least"
    protocol = f" (preset {settings['preset']})" if settings["preset"] is not None else ""
    return f"{settings['images']} prompts of {PurePath(settings['prompts_file']).name}{protocol}"
