"""Figures of a run: ``metrics.jsonl`` always, TensorBoard and Weights & Biases where the recipe asks for them."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.atomic import explain_os_errors
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.recipe import Logging

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

METRICS_NAME = "metrics.jsonl"
_EXTRAS = {"tensorboard": "train", "wandb": "wandb"}
_OFF = {"tensorboard": "false", "wandb": "null"}


class MetricsLog:
    """A file with one JSON object a line. A number that is not finite, which JSON has no word for, is null.

    Args:
        path: the file.
        position: what is kept of an earlier one, in bytes; the rest is cut off, since it will be written again.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self._path = path
        with explain_os_errors(path):
            self._file = path.open("ab")
            self._file.truncate(min(position, path.stat().st_size))
            self._file.seek(0, os.SEEK_END)

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        with explain_os_errors(self._path):
            self._file.write(json.dumps(finite(record), ensure_ascii=False).encode() + b"\n")
            self._file.flush()

    def position(self) -> int:
        """The bytes that are safely on disk: all that was written."""
        with explain_os_errors(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Trackers:
    """TensorBoard and Weights & Biases, through accelerate, which lets the main process alone write.

    Args:
        settings: which of them.
        folder: of the run; TensorBoard's files go to ``tensorboard`` in it.
        run: an id of the run, by which Weights & Biases finds it again.
        step: the step that the run begins after; TensorBoard drops what an earlier try logged after it.

    Raises:
        DistillationError: one of them is missing or cannot be opened.
    """

    def __init__(self, settings: Logging, folder: Path, run: str, step: int = 0) -> None:
        self._every = settings.every
        self._trackers: list[GeneralTracker] = []
        for name in wanted_trackers(settings):
            try:
                tracker = _open(name, settings, folder, run, step)
                tracker.start()
            except Exception as error:  # of any kind: no network, no account, no room
                self.close()
                raise DistillationError(
                    f"logging.{name} cannot be opened: {error}; mend that, or go on without it"
                    f" (--resume latest --set logging.{name}={_OFF[name]})"
                ) from error
            self._trackers.append(tracker)

    def step(self, number: int, figures: Mapping[str, float]) -> None:
        """Log the figures of a step, of every ``logging.every``-th."""
        if number % self._every == 0:
            self.log(number, figures)

    def log(self, number: int, figures: Mapping[str, float]) -> None:
        """Log figures at a step."""
        for tracker in self._trackers:
            tracker.log(dict(figures), step=number)

    def close(self) -> None:
        """Write out what is still held back."""
        for tracker in self._trackers:
            tracker.finish()


def _open(name: str, settings: Logging, folder: Path, run: str, step: int) -> GeneralTracker:
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    if name == "tensorboard":
        return TensorBoardTracker("tensorboard", logging_dir=folder, purge_step=step + 1)
    return WandBTracker(settings.wandb, id=run, resume="allow", dir=str(folder))


def wanted_trackers(settings: Logging) -> list[str]:
    """The trackers that a recipe asks for.

    Raises:
        DistillationError: the package of one is missing.
    """
    names = [
        name for name, wanted in (("tensorboard", settings.tensorboard), ("wandb", settings.wandb)) if wanted
    ]
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise DistillationError(
                f"logging.{name} needs the package {name}; install it with pip install 'linzoo[{_EXTRAS[name]}]', or"
                " leave it out of the recipe"
            )
    return names


def finite(value: Any) -> Any:
    """What JSON can hold of a value: numbers that are not finite become None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value
