"""What a run is made from, so that it is gone on with as the same run only."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from linzoo.distillation.errors import DistillationError

_FREE = (
    "name",
    "summary",
    "presets",
    "gradient_checkpointing",
    "calibrate.micro_batch",
    "align.micro_batch",
    "distill.micro_batch",
    "distill.ema.device",
    "data.cache",
    "validation.every",
    "validation.images",
    "validation.image_steps",
    "validation.guidance",
    "validation.bars",
    "saving",
    "logging",
    "guards",
)
"""Settings that may change when a run is gone on with: they change no result beyond rounding."""
_SHOWN = 8


def result_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that its result depends on."""
    settings = copy.deepcopy(dict(document))
    for path in _FREE:
        *sections, key = path.split(".")
        place: Any = settings
        for section in sections:
            place = place.get(section) or {}
        place.pop(key, None)
    return settings


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with a run that was made from something else.

    Args:
        saved: the identity that the run was saved with.
        now: the identity now, or the parts of it that are known yet.
        where: the run.

    Raises:
        DistillationError: they differ; the message says in what.
    """
    found = [line for key in sorted(now) for line in _differences(key, saved.get(key), now[key])]
    if found:
        more = [f"  … and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        lines = [f"  {line}" for line in found[:_SHOWN]] + more
        raise DistillationError(
            "\n".join([f"{where} cannot be gone on with, for it was made from something else:", *lines])
            + "\nGive what it was made from, or choose another --out for a new run."
        )


def _differences(path: str, saved: Any, now: Any) -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in sorted({*saved, *now}):
            yield from _differences(f"{path}.{key}", saved.get(key), now.get(key))
    elif saved != now:
        yield f"{path}: {_short(saved)} in the run, {_short(now)} now"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"
