"""Models that a lock file names are found again: by their address, or by their bytes among what plugins ship."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from linzoo.checkpoints import shipped
from linzoo.checkpoints.digest import Digest, digest
from linzoo.checkpoints.lock import describe_files, files_read
from linzoo.checkpoints.shipped import named_source, shipped_under, source_of
from linzoo.checkpoints.source import open_source
from linzoo.registry import build_registry

REGISTRY = build_registry(entry_points=False)


def files_of(name: str) -> dict[str, Digest]:
    return {each: digest(path) for each, path in files_read(open_source(name, registry=REGISTRY)).items()}


def test_the_source_of_a_record() -> None:
    files = describe_files(files_of("mini-3d"))
    assert source_of({"files": files}, REGISTRY) == "mini-3d"
    assert (
        source_of({"files": files, "repo": "hf://user/repo", "commit": "abc"}, REGISTRY)
        == "hf://user/repo@abc"
    )
    assert source_of({"files": {"x.safetensors": {"bytes": 1, "sha256": "00"}}}, REGISTRY) is None
    assert source_of({}, REGISTRY) is None
    for damaged in ({"files": []}, {"files": {"x": 3}}, {"repo": 3, "commit": "abc"}, {"files": {"x": {}}},
                    {"files": {"x" * 300: {"sha256": "00"}}}, {"files": {"\0": {"sha256": "00"}}},
                    {"repo": "nonsense", "commit": "abc"}):  # fmt: skip
        assert source_of(damaged, REGISTRY) is None


def test_how_people_are_told_of_a_record() -> None:
    one = {"tune.safetensors": {"bytes": 1, "sha256": "00"}}
    for record, named in (
        ({"files": describe_files(files_of("mini-3d"))}, "mini-3d"),
        ({"files": one, "repo": "hf://user/repo", "commit": "abc", "file": "v1/tune.safetensors"},
         "hf://user/repo@abc/v1/tune.safetensors"),
        ({"files": one}, "tune.safetensors"),
        ({"files": one | {"unet/config.json": {}}}, "a local folder"),
        ({}, "a model that is not named"),
        ({"files": 3}, "a model that is not named"),
    ):  # fmt: skip
        assert named_source(record, REGISTRY) == named


def test_a_shipped_file_is_hashed_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> Digest:
        hashed.append(path)
        return digest(path)

    shipped._sum.cache_clear()
    monkeypatch.setattr(shipped, "digest", counted)
    by_hash = {name: {"sha256": each.sha256} for name, each in files_of("mini-3d").items()}
    for _ in range(3):
        found = shipped_under({"files": by_hash}, REGISTRY)
        assert found is not None
        assert found.name == "mini-3d"
    assert len(hashed) == len(set(hashed))

    copied = tmp_path / "weights"
    shutil.copy(hashed[0], copied)
    record = {"sha256": digest(copied).sha256}
    assert shipped._is(copied, record)
    copied.write_bytes(b"other")
    assert not shipped._is(copied, record)
