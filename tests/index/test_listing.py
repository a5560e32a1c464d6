"""Which indexes are read, what they list together, and searching that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from entries import HASH, make_entry, write_index

from linzoo.registry import Registry, build_registry
from linzoo.zoo.builtin import builtin_index
from linzoo.zoo.errors import ZooError
from linzoo.zoo.listing import Query, find_checkpoint, list_checkpoints, named_indexes


@pytest.fixture(scope="module")
def registry() -> Registry:
    return build_registry(entry_points=False, env={})


def test_the_built_in_index_is_what_variants_declare(registry: Registry) -> None:
    entries = {entry.repo: entry for entry in builtin_index(registry).entries}
    assert set(entries) == {
        "mini-linfusion", "Yuanshi/LinFusion-1-5", "Yuanshi/LinFusion-2-1", "Yuanshi/LinFusion-XL",
    }  # fmt: skip
    mini, published = entries["mini-linfusion"], entries["Yuanshi/LinFusion-1-5"]
    assert (mini.base, mini.base_hash, mini.plan, mini.recipe) == (
        "mini",
        "cff95565d8ee50dc",
        "mini-full",
        "mini",
    )
    assert (mini.license, mini.bytes, mini.kd_in_words) == (
        "apache-2.0",
        766_304,
        "0.006283 in its distillation",
    )
    assert (published.base, published.variant) == ("runwayml/stable-diffusion-v1-5", "sd15")
    assert (published.commit, published.base_hash, published.license, published.bytes) == (
        None,
        None,
        None,
        None,
    )
    assert published.measures == {}


def test_a_damaged_checkpoint_of_a_plugin_hides_nothing_else(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("linzoo.plugin.Resource.locate", lambda resource: tmp_path)
    assert len(builtin_index(registry).entries) == 3


def test_the_first_index_that_lists_a_repository_decides(registry: Registry, tmp_path: Path) -> None:
    first = write_index(tmp_path / "1.json", make_entry("user/a", license="mit"))
    measured = make_entry("Yuanshi/LinFusion-XL", variant="sdxl")
    second = write_index(tmp_path / "2.json", make_entry("user/a"), measured)
    listed = list_checkpoints([str(first), str(second)], registry)
    assert [(each.entry.variant, each.entry.repo) for each in listed] == [
        ("mini", "mini-linfusion"),
        ("sd15", "Yuanshi/LinFusion-1-5"),
        ("sd21", "Yuanshi/LinFusion-2-1"),
        ("sdxl", "Yuanshi/LinFusion-XL"),
        ("tiny", "user/a"),
    ]
    assert listed[-1].entry.license == "mit"
    assert (listed[-1].index, listed[-2].index, listed[0].index) == (str(first), str(second), "built-in")
    assert listed[-2].entry == measured


@pytest.mark.parametrize(
    ("given", "value", "named"),
    [
        ([], None, []),
        ([], " ,", []),
        ([], "a b.json, hf://datasets/user/zoo@v1", ["a b.json", "hf://datasets/user/zoo@v1"]),
        ([Path("mine.json")], "other.json", ["mine.json"]),
    ],
)
def test_which_indexes_are_read(
    given: list[Path], value: str | None, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv("LINZOO_ZOO", raising=False)
    else:
        monkeypatch.setenv("LINZOO_ZOO", value)
    assert named_indexes(given) == named


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"text": "Artist TINY"}, True),
        ({"text": "artist sdxl"}, False),
        ({"base": "Base"}, True),
        ({"base": HASH}, True),
        ({"base": HASH[:8]}, False),
        ({"base": "user/a"}, False),
        ({"variant": "tiny"}, True),
        ({"variant": "tin"}, False),
        ({"mixer": "generalized-linear"}, True),
        ({"mixer": "linear"}, False),
        ({"license": "OpenRAIL++"}, True),
        ({"license": "openrail"}, False),
        ({"variant": "tiny", "license": "mit"}, False),
    ],
)
def test_searching(query: dict[str, Any], found: bool) -> None:
    assert Query(**query).matches(make_entry()) is found


def test_what_is_not_known_is_not_found() -> None:
    unknown = make_entry(base=None, base_hash=None, license=None, plan=None, recipe=None)
    assert Query().matches(unknown)
    assert not any(Query(**{field: "x"}).matches(unknown) for field in ("base", "license", "text"))


def test_finding_one(registry: Registry) -> None:
    listed = list_checkpoints([], registry)
    assert find_checkpoint("mini-linfusion", listed).index == "built-in"
    with pytest.raises(ZooError, match="did you mean 'mini-linfusion'"):
        find_checkpoint("mini-linfuson", listed)
    with pytest.raises(ZooError, match="xyz is in no index; 'linzoo zoo list' shows what is"):
        find_checkpoint("xyz", listed)
