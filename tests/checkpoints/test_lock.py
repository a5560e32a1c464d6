"""The lock file: what it records, how it is read back, and what it refuses to believe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from linzoo.checkpoints.address import HubAddress
from linzoo.checkpoints.digest import Digest
from linzoo.checkpoints.lock import (
    LOCK_VERSION,
    address_of,
    changed_outputs,
    describe_entry,
    describe_source,
    encode_json,
    made_for,
    made_from,
    plain,
    read_lock,
)
from linzoo.checkpoints.source import open_source
from linzoo.errors import CheckpointError
from linzoo.plugin import AttentionPlan, AttentionRule
from tests.init.toys import toy_registry, toy_unet, write_ldm

PLAN = AttentionPlan(
    id="p", variant="toy", rules=(AttentionRule(mixer="softmax", options={"a": (1, 2)}),), expect_replaced=0
)


def test_a_model_from_the_hub_is_known_by_repository_and_commit(tmp_path: Path) -> None:
    local = open_source(write_ldm(tmp_path / "a.safetensors", toy_unet()), registry=toy_registry())
    digests = {"a.safetensors": Digest(3, "ff")}
    files = {"a.safetensors": {"bytes": 3, "sha256": "ff"}}
    assert describe_source(local, digests) == {"layout": "ldm", "files": files}
    remote = dataclasses.replace(local, spec="hf://user/repo@main", revision="0123abcd")
    assert describe_source(remote, digests) == {
        "layout": "ldm", "files": files, "repo": "hf://user/repo", "commit": "0123abcd",
    }  # fmt: skip


def test_the_hash_of_a_declaration_changes_with_any_field() -> None:
    first = describe_entry(PLAN)
    assert first["document"]["rules"] == [
        {"match": "*", "mixer": "softmax", "channels": None, "options": {"a": [1, 2]}}
    ]
    assert json.loads(encode_json(first)) == first
    assert describe_entry(dataclasses.replace(PLAN, summary="x"))["sha256"] != first["sha256"]
    assert describe_entry(dataclasses.replace(PLAN))["sha256"] == first["sha256"]


def test_bytes_do_not_depend_on_the_order_of_keys() -> None:
    assert encode_json({"b": 1, "a": plain({"d": (1,), "c": "é"})}) == encode_json(
        {"a": {"c": "é", "d": [1]}, "b": 1}
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "no lock file of linzoo"),
        ({"lock_version": 1, "outputs": []}, "no lock file of linzoo"),
        ({"lock_version": "1", "outputs": {}}, "no lock file of linzoo"),
        ({"lock_version": LOCK_VERSION + 1, "outputs": {}}, "written by a newer linzoo"),
    ],
)
def test_documents_that_are_no_lock_file(tmp_path: Path, document: dict, message: str) -> None:
    (tmp_path / "linzoo.lock.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        read_lock(tmp_path)


def test_no_lock_file(tmp_path: Path) -> None:
    assert read_lock(tmp_path) is None


def test_changed_outputs(tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(b"abc")
    (tmp_path / "longer").write_bytes(b"abcd")
    record = {"bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    outputs = {"same": record, "longer": record, "missing": record, "odd": 5}
    assert changed_outputs(tmp_path, {"outputs": outputs}) == ["longer", "missing", "odd"]
    (tmp_path / "odd").write_bytes(b"")
    assert changed_outputs(tmp_path, {"outputs": outputs}, fetched=True) == ["longer", "odd"]


def recorded(**sums: str) -> dict[str, Any]:
    return {"layout": "ldm", "files": {name: {"bytes": 1, "sha256": each} for name, each in sums.items()}}


@pytest.mark.parametrize(
    ("source", "teacher", "other"),
    [
        ({"a": "00", "b": "11"}, {"a": "00", "b": "11"}, False),
        ({"a": "00", "b": "11"}, {"a": "11", "b": "00"}, True),
        ({"a": "00"}, {"renamed": "00"}, False),
        ({"a": "00"}, {"a": "11"}, True),
        ({"a": "00", "b": "11"}, {"a": "00"}, True),
        ({"a": "00", "b": "00"}, {"a": "00"}, True),
    ],
)
def test_what_a_checkpoint_is_for(source: dict[str, str], teacher: dict[str, str], other: bool) -> None:
    lock = {"source": recorded(**source), "distill": {"teacher": teacher}}
    by_hash = {"files": {name: {"sha256": each} for name, each in teacher.items()}}
    assert made_for(lock) == (by_hash if other else lock["source"])
    assert ("learnt_from" in made_from(lock)) == other


def test_a_conversion_is_for_its_source_and_nothing_is_for_nothing() -> None:
    lock = {"source": recorded(a="00"), "linfusion": recorded(b="11")}
    assert made_for(lock) == lock["source"]
    assert made_for({"linfusion": recorded(b="11")}) == {}
    assert made_for({"distill": {"teacher": {"a": "00"}}}) == {"files": {"a": {"sha256": "00"}}}


def test_where_a_recorded_model_is() -> None:
    record = {"repo": "hf://user/repo", "commit": "0123abcd"}
    assert address_of(record) == HubAddress("user/repo", "0123abcd")
    assert address_of({**record, "repo": "hf://user/repo@main"}) == HubAddress("user/repo", "0123abcd")
    file = "v1/model.safetensors"
    assert address_of({**record, "file": file}) == HubAddress("user/repo", "0123abcd", file)
    assert address_of({"repo": "hf://user/repo"}) is None
    assert address_of({}) is None
