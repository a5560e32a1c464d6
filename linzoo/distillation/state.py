"""The saved states of a run, from which it goes on: safetensors and JSON, whole or not there."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from linzoo.checkpoints.atomic import new_folder, require_space
from linzoo.checkpoints.digest import digest
from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.lock import encode_json
from linzoo.checkpoints.writer import write_file
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.tensors import write_tensors
from linzoo.errors import CheckpointError

RECORD_NAME = "state.json"
STATE_VERSION = 1
_HEADERS = 8 << 20


@dataclass(frozen=True)
class SavedState:
    """A state on disk that is whole.

    Attributes:
        folder: its place.
        record: the plain numbers in it.
    """

    folder: Path
    record: Mapping[str, Any]

    def tensors(self, files: Collection[str] | None = None) -> dict[str, dict[str, Tensor]]:
        """Its tensors, in host memory, by the file that they are in; all, or those of some files."""
        from safetensors.torch import load_file

        names = [Path(name).stem for name in self.record["files"]]
        return {
            name: load_file(self.folder / f"{name}.safetensors")
            for name in names
            if files is None or name in files
        }


class States:
    """The states of one run, in folders named after the step.

    Args:
        folder: where they are.
        keep_last: how many are kept.
        min_free: bytes that a save must leave free on the disk.
        say: told of a damaged state that is passed over.
    """

    def __init__(self, folder: Path, keep_last: int, min_free: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._keep_last = keep_last
        self._min_free = min_free
        self._say = say

    def save(self, step: int, record: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]) -> Path:
        """Save the state after a step; older ones than ``keep_last`` are removed afterwards.

        Raises:
            CheckpointError: there is not enough room, or the disk refuses; the states before are as they were.
        """
        self.require_room(files)
        target = self._folder / f"step-{step:08d}"
        with new_folder(target, replace=True) as folder:
            written = {
                f"{name}.safetensors": dataclasses.asdict(
                    write_tensors(folder / f"{name}.safetensors", tensors)
                )
                for name, tensors in files.items()
            }
            document = {**record, "state_version": STATE_VERSION, "step": step, "files": written}
            write_file(folder / RECORD_NAME, encode_json(document))
        for old in self.steps()[: -self._keep_last]:
            self._remove(old)
        return target

    def require_room(self, files: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Refuse a state for which there is not enough room on the disk.

        Raises:
            CheckpointError: so it is.
        """
        require_space(self._folder, nbytes(files) + self._min_free)

    def steps(self) -> list[int]:
        """The steps that there are states of, damaged ones among them."""
        if not self._folder.is_dir():
            return []
        names = (re.fullmatch(r"step-(\d+)", each.name) for each in self._folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def latest(self) -> SavedState | None:
        """The last state that is whole; None where there is none."""
        for step in reversed(self.steps()):
            try:
                return self.open(step)
            except CheckpointError as error:
                self._say(f"note: the state of step {step} is passed over: {error}")
        return None

    def open(self, step: int) -> SavedState:
        """Check a state and return it.

        Raises:
            CheckpointError: it is damaged, or was written by a newer linzoo.
            DistillationError: there is none of that step.
        """
        folder = self._folder / f"step-{step:08d}"
        if not folder.is_dir():
            there = ", ".join(map(str, self.steps())) or "none"
            raise DistillationError(f"{self._folder} has no state of step {step}; there are: {there}")
        record = read_json(folder / RECORD_NAME)
        if record.get("state_version", 0) > STATE_VERSION:
            raise CheckpointError(f"{folder} was written by a newer linzoo; update linzoo to go on from it")
        for name, expected in record["files"].items():
            if dataclasses.asdict(digest(folder / name)) != expected:
                raise CheckpointError(f"{folder / name} is not what was written; it is damaged")
        return SavedState(folder, record)

    def drop_after(self, step: int) -> None:
        """Remove the states of later steps, and what killed saves left: that part of the run is done again."""
        for later in self.steps():
            if later > step:
                self._remove(later)
        if self._folder.is_dir():
            for leftover in self._folder.glob(".step-*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def _remove(self, step: int) -> None:
        folder = self._folder / f"step-{step:08d}"
        hidden = folder.with_name(f".{folder.name}.removed")  # a kill amid the removal leaves no half state
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def nbytes(files: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Bytes on disk of a state with these tensors, with room for headers."""
    tensors = (tensor for each in files.values() for tensor in each.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + _HEADERS
