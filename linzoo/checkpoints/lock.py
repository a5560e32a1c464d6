"""``linzoo.lock.json``: what a result was made from and how, so that it can be checked and made again.

It holds no times and no absolute paths: the same input gives the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.digest import Digest, digest, hash_document
from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError

LOCK_NAME = "linzoo.lock.json"
LOCK_VERSION = 1
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".gguf", ".onnx", ".msgpack", ".h5")
"""How files end that hold weights: beside a lock file there should be none that it does not name."""

_SECTIONS = ("detection", "source", "linfusion", "base", "plan", "init", "distill", "tensors", "outputs")


def files_read(checkpoint: Checkpoint) -> dict[str, Path]:
    """The files that a conversion reads of a checkpoint, by the name that the lock file gives them."""
    root = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    files = list(checkpoint.files)
    config = files[0].with_name("config.json")
    if checkpoint.path.is_dir() and config.is_file():
        files.append(config)
    return {file.relative_to(root).as_posix(): file for file in files}


def describe_source(checkpoint: Checkpoint, digests: Mapping[str, Digest]) -> dict[str, Any]:
    """Record where weights came from: the repository and commit if they came from the Hub, and every file's hash."""
    record: dict[str, Any] = {"layout": checkpoint.layout, "files": describe_files(digests)}
    if (address := checkpoint.address) is not None:
        record["repo"] = str(HubAddress(address.repo))
        record["commit"] = address.revision
        if address.file is not None:
            record["file"] = address.file
    return record


def describe_files(digests: Mapping[str, Digest]) -> dict[str, Any]:
    """Record files by name, with size and SHA-256."""
    return {name: dataclasses.asdict(digests[name]) for name in sorted(digests)}


def describe_entry(entry: Any) -> dict[str, Any]:
    """Record what a plugin declared, with a hash of it, so that a change of a plan or recipe shows."""
    document = plain(entry)
    return {"id": entry.id, "sha256": hash_document(document), "document": document}


def plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Encode a document so that equal documents have equal bytes."""
    return (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_lock(folder: Path) -> dict[str, Any] | None:
    """Read the lock file of a result; None where there is none.

    Raises:
        CheckpointError: it is damaged, or was written by a newer linzoo.
    """
    path = folder / LOCK_NAME
    if not path.exists():
        return None
    document = read_json(path)
    whole = "outputs" in document and all(isinstance(document.get(name, {}), dict) for name in _SECTIONS)
    if not whole or not isinstance(document.get("lock_version"), int):
        raise CheckpointError(f"{path}: no lock file of linzoo, or a damaged one")
    if document["lock_version"] > LOCK_VERSION:
        raise CheckpointError(f"{path}: written by a newer linzoo; update linzoo to read it")
    return document


def made_from(lock: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a lock file records of each model that its result was made from, by role.

    The roles are ``source``, ``linfusion`` and ``base``, and ``learnt_from`` for the teacher of a distillation where that is
    another model than the source; of it the hashes alone are known.
    """
    records = {role: lock[role] for role in ("source", "linfusion", "base") if role in lock}
    learnt_from = lock.get("distill", {}).get("teacher")
    if isinstance(learnt_from, Mapping) and not _are(records.get("source", {}).get("files"), learnt_from):
        records["learnt_from"] = {"files": {name: {"sha256": each} for name, each in learnt_from.items()}}
    return records


def made_for(lock: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record of the model that a result is for, of which it draws the pictures; empty where the lock file names none.

    That is what it was converted from, or the teacher of its distillation where that is another one (``learnt_from``).
    """
    records = made_from(lock)
    return records.get("learnt_from") or records.get("source", {})


def is_distilled(lock: Mapping[str, Any]) -> bool:
    """Whether weights were learnt from a teacher: in a distillation of its own, or in that of the weights it started from."""
    return "distill" in lock or "linfusion" in lock


def address_of(record: Mapping[str, Any]) -> HubAddress | None:
    """Where on the Hub a model that a lock file records was read, down to the commit; None for one that was not there."""
    repo, commit, file = (record.get(name) for name in ("repo", "commit", "file"))
    if not isinstance(repo, str) or not isinstance(commit, str):
        return None
    with contextlib.suppress(CheckpointError):  # the lock files of others may hold anything
        return HubAddress(HubAddress.parse(repo).repo, commit, file if isinstance(file, str) else None)
    return None


def at(document: Any, *path: str) -> Any:
    """What stands at a place in JSON, of which nothing is known; None where there is no such place."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def _are(files: Any, sums: Mapping[str, Any]) -> bool:
    """Whether recorded files are those with these hashes; a single file may have got another name."""
    if not isinstance(files, Mapping):
        return False
    known = {name: each.get("sha256") if isinstance(each, Mapping) else None for name, each in files.items()}
    return known == sums or (len(known) == 1 and list(known.values()) == list(sums.values()))


def changed_outputs(folder: Path, lock: Mapping[str, Any], *, fetched: bool = False) -> list[str]:
    """Names of the files of a result that are missing or are not what its lock file says.

    Args:
        folder: where the result lies.
        lock: what its lock file holds.
        fetched: it came from the Hub, of which only what makes the model is fetched: no pictures, no licence. What is not
            there has not changed.
    """
    changed = []
    for name, record in sorted(lock["outputs"].items()):
        path = folder / name
        if not path.is_file():
            if not fetched:
                changed.append(name)
        elif dataclasses.asdict(digest(path)) != record:
            changed.append(name)
    return changed
