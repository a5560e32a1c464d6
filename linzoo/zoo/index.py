"""An index of LinFusion checkpoints: a JSON file, alone or in a dataset repository on the Hub."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from linzoo.checkpoints.address import SCHEME, HubAddress, is_address
from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.hub_errors import hub_errors
from linzoo.checkpoints.lock import encode_json
from linzoo.errors import CheckpointError
from linzoo.plugin.spec import SpecError
from linzoo.zoo.entry import ZooEntry, parse_entry
from linzoo.zoo.errors import ZooError

INDEX_NAME = "zoo.json"
"""The file in a dataset repository."""
DATASETS = f"{SCHEME}datasets/"
"""How the address of a dataset repository begins."""
SCHEMA = 1


@dataclass(frozen=True)
class Index:
    """Some LinFusion checkpoints.

    Attributes:
        where: what lists them: a file, ``hf://datasets/user/name``, or ``built-in``.
        entries: one for a repository, by its name.
    """

    where: str
    entries: tuple[ZooEntry, ...]

    def of(self, repo: str) -> ZooEntry | None:
        """The entry of a repository; None where it has none."""
        return next((entry for entry in self.entries if entry.repo == repo), None)

    def with_entry(self, entry: ZooEntry) -> Index:
        """The index with an entry more, or with another one for the same repository."""
        others = (each for each in self.entries if each.repo != entry.repo)
        return replace(self, entries=_ordered([*others, entry]))


def dataset_of(where: str | Path) -> HubAddress | None:
    """The dataset repository that an index is in; None for a file.

    Raises:
        ZooError: it begins as one on the Hub does, and is none.
    """
    text = str(where)
    if not is_address(text):
        return None
    with contextlib.suppress(CheckpointError):
        if text.startswith(DATASETS):
            return HubAddress.parse(text.removeprefix(DATASETS)).whole()
    raise ZooError(
        f"{text}: an index on the Hub is a dataset: write {DATASETS}user/name or {DATASETS}user/name@revision"
    )


def open_index(where: str | Path) -> Index:
    """Read an index.

    Args:
        where: a file, or ``hf://datasets/user/name[@rev]``, which holds ``zoo.json``. Without a network the copy in the
            local cache is read.

    Raises:
        ZooError: it is malformed, or of a newer schema.
        CheckpointError: there is no such file, it is not JSON, or the Hub cannot be asked.
    """
    dataset = dataset_of(where)
    path = Path(where) if dataset is None else _fetch(dataset, str(where))
    return parse_index(read_json(path), str(where))


def parse_index(document: Mapping[str, Any], where: str) -> Index:
    """Read an index; all of it has to be right.

    Args:
        document: the parsed JSON.
        where: how errors name it.

    Raises:
        ZooError: it is malformed, or of a newer schema.
    """
    if not isinstance(document.get("entries"), list):
        raise ZooError(
            f'{where}: no index of LinFusion checkpoints, which is {{"schema": {SCHEMA}, "entries": [...]}}'
        )
    if document.get("schema") != SCHEMA:
        raise ZooError(
            f"{where}: of schema {document.get('schema')!r}, and this linzoo reads {SCHEMA}; update linzoo"
        )
    try:
        entries = [parse_entry(each, f"entries[{place}]") for place, each in enumerate(document["entries"])]
    except SpecError as error:
        raise ZooError(f"{where}: {error}") from error
    times = Counter(entry.repo for entry in entries)
    if twice := [repo for repo, count in times.items() if count > 1]:
        raise ZooError(f"{where}: lists {twice[0]} twice; leave one of the two")
    return Index(where, _ordered(entries))


def encode_index(index: Index) -> bytes:
    """The bytes of an index; equal indexes have equal bytes."""
    return encode_json({"schema": SCHEMA, "entries": [entry.to_json() for entry in index.entries]})


def _ordered(entries: Iterable[ZooEntry]) -> tuple[ZooEntry, ...]:
    return tuple(sorted(entries, key=lambda entry: entry.repo))


def _fetch(dataset: HubAddress, where: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with hub_errors(where):
        try:
            return Path(
                hf_hub_download(dataset.repo, INDEX_NAME, repo_type="dataset", revision=dataset.revision)
            )
        except RemoteEntryNotFoundError as error:
            raise ZooError(f"{where}: holds no {INDEX_NAME}; 'linzoo zoo add' proposes one") from error
