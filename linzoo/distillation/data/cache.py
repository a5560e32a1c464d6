"""A store of tensors on disk by content key: safetensors shards that appear whole, carry their digest, and last.

A shard's name is the time of its writing and the SHA-256 of its bytes, so that no second file has to agree with it:
what a kill interrupts is not there, what is there can be checked, and several processes can write to one folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from linzoo.checkpoints.atomic import explain_os_errors, write_bytes
from linzoo.checkpoints.digest import digest
from linzoo.distillation.data.items import Progress
from linzoo.distillation.errors import DataError
from linzoo.errors import CheckpointError

SHARD_BYTES = 64 * 2**20
SHARD_RECORDS = 1024
SHARD_SECONDS = 60
_NAME = re.compile(r"\d{20}-([0-9a-f]{64})\.safetensors")
_LEFTOVER_SECONDS = 3600


@dataclass(frozen=True)
class Record:
    """What is kept under one key: tensors by name, and JSON values that tell of them."""

    key: str
    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any]


class Cache:
    """A folder of records.

    Args:
        folder: made where it is missing.
        about: what all the records have in common, for people who find the folder; kept in ``about.json``.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self._shards: dict[Path, Any] = {}
        self._places: dict[str, tuple[Any, Mapping[str, Any]]] = {}
        if not (folder / "about.json").exists():
            write_bytes(folder / "about.json", json.dumps(about, indent=1).encode())
        self._remove_leftovers()

    def verify(self, progress: Progress, rank: int = 0, world: int = 1) -> list[str]:
        """Read this process's share of the shards and remove those that are not what they were written as.

        Args:
            progress: told of every shard.
            rank: number of this process.
            world: number of processes.

        Returns:
            A note for each shard that was removed; its records are no longer there, and can be made anew.
        """
        shards = [path for path in self._paths() if int(_sha256(path)[:8], 16) % world == rank]
        damaged = []
        with ThreadPoolExecutor() as pool:
            for done, (path, sound) in enumerate(zip(shards, pool.map(_is_sound, shards), strict=True), 1):
                progress(done, len(shards), f"checking {self.folder.name}")
                if not sound:
                    damaged.append(path)
        for path in damaged:
            with explain_os_errors(path):
                path.unlink(missing_ok=True)
        return [f"{path}: was damaged; what it held is made again" for path in damaged]

    def open(self) -> None:
        """Find the records that are there now; where two have one key, the older counts.

        Raises:
            DataError: a shard cannot be read.
        """
        for path in self._paths():
            if path in self._shards:
                continue
            try:
                shard: Any = safe_open(path, "pt", device="cpu")
                self._shards[path] = shard
                records: dict[str, Any] = json.loads(shard.metadata()["records"])
            except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
                raise DataError(
                    f"{path}: cannot be read ({error}); delete this file and run again"
                ) from error
            for key, record in records.items():
                self._places.setdefault(key, (shard, record))

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def info(self, key: str) -> Mapping[str, Any]:
        """What was said of a record; a KeyError where there is none."""
        info: Mapping[str, Any] = self._places[key][1]["info"]
        return info

    def tensors(self, key: str) -> dict[str, Tensor]:
        """The tensors of a record, as views of the mapped file: do not write to them."""
        shard, record = self._places[key]
        return {name: shard.get_tensor(f"{key}/{name}") for name in record["tensors"]}

    def writer(self) -> Writer:
        """A writer of new records."""
        return Writer(self.folder)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.safetensors") if _NAME.fullmatch(path.name))

    def _remove_leftovers(self) -> None:
        """Remove what killed writers left; a living one never takes as long as that."""
        for path in self.folder.glob(".*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()


class Writer:
    """Gathers records and writes them in shards; a kill loses those of the last minute at most.

    What has been added is written when the ``with`` block ends, also when it ends by an error.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._records: dict[str, Record] = {}
        self._bytes = 0
        self._since = 0.0

    def add(self, record: Record) -> None:
        """Take a record; its tensors are copied, so that a view does not bring its whole storage along.

        Raises:
            CheckpointError: the disk is full, or the folder cannot be written to. What was written before stays.
        """
        if not self._records:
            self._since = time.monotonic()
        tensors = {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in record.tensors.items()
        }
        self._records[record.key] = Record(record.key, tensors, record.info)
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())
        late = time.monotonic() - self._since >= SHARD_SECONDS
        if late or self._bytes >= SHARD_BYTES or len(self._records) >= SHARD_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what has been added since the last shard; raises as :meth:`add`."""
        if not self._records:
            return
        records, self._records, self._bytes = self._records, {}, 0
        tensors = {
            f"{key}/{name}": tensor
            for key, record in records.items()
            for name, tensor in record.tensors.items()
        }
        told = {
            key: {"tensors": list(record.tensors), "info": dict(record.info)}
            for key, record in records.items()
        }
        content = save(tensors, {"format": "pt", "records": json.dumps(told)})
        name = f"{time.time_ns():020d}-{hashlib.sha256(content).hexdigest()}.safetensors"
        write_bytes(self._folder / name, content)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()


def halved(tensor: Tensor) -> Tensor:
    """The tensor in float16 where that holds its values, else in float32.

    Latents are about standard normal and text states within a few hundred: float16 keeps eleven bits of each, finer
    than the eight bits of the pictures that they come from, at half the disk. Only what overflows needs float32.
    """
    half = tensor.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else tensor.to(torch.float32)


def _sha256(path: Path) -> str:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return found.group(1)


def _is_sound(path: Path) -> bool:
    try:
        return digest(path).sha256 == _sha256(path)
    except CheckpointError:
        return False
