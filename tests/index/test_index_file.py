"""Indexes as files: what is written is read again, and what is malformed is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from entries import COMMIT, HASH, make_entry, write_index
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.errors import CheckpointError
from linzoo.testing.fake_hub import FakeHub
from linzoo.zoo.entry import ZooEntry
from linzoo.zoo.errors import ZooError
from linzoo.zoo.index import INDEX_NAME, Index, encode_index, open_index, parse_index

words = st.sampled_from(["tiny", "sd15-inpaint", "x.y_z", "0", "kd", "clip-score-change"])
names = st.text("aZ9_-", min_size=1, max_size=6)
repos = st.builds("{}/{}.{}".format, names, names, names)
hashes = st.integers(0, 2**64 - 1).map("{:016x}".format)
commits = st.integers(0, 2**160 - 1).map("{:040x}".format)
entries = st.builds(
    ZooEntry,
    repo=repos,
    commit=commits,
    format=st.sampled_from(["adapter", "pipeline"]),
    variant=words,
    base=st.none() | repos | words,
    base_commit=st.none() | commits,
    base_hash=st.none() | hashes,
    mixers=st.lists(words, min_size=1, max_size=3).map(tuple),
    plan=st.none() | words,
    recipe=st.none() | words,
    license=st.none()
    | st.sampled_from(
        ["openrail++", "apache-2.0", "creativeml-openrail-m", "other", "Fair AI Public License 1.0-SD"]
    ),
    bytes=st.none() | st.integers(1, 10**12),
    measures=st.dictionaries(
        words, st.floats(allow_nan=False, allow_infinity=False) | st.integers(), max_size=3
    ),
)


@settings(deadline=None)
@given(st.lists(entries, max_size=4, unique_by=lambda entry: entry.repo))
def test_an_index_is_read_as_it_was_written(listed: list[ZooEntry]) -> None:
    index = Index("here", tuple(sorted(listed, key=lambda entry: entry.repo)))
    written = encode_index(index)
    again = parse_index(json.loads(written), "here")
    assert again == index
    assert encode_index(again) == written


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8),
       st.sampled_from(sorted(make_entry().to_json())))  # fmt: skip
def test_any_other_value_is_an_entry_or_an_error(value: Any, field: str) -> None:
    document = {"schema": 1, "entries": [{**make_entry().to_json(), field: value}]}
    try:
        said, index = "", parse_index(document, "here")
    except ZooError as error:
        said, index = str(error), Index("here", ())
    assert said.startswith("here: entries[0]") or json.loads(encode_index(index)) == document


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo": "user"}, r"entries\[0\] names no commit of a repository on the Hub"),
        ({"commit": None}, r"entries\[0\] names no commit of a repository on the Hub"),
        ({"repo": "a/b/c"}, r"entries\[0\]: repo must be of the form user/name"),
        ({"repo": "user/\x1b[31m"}, r"entries\[0\]: repo must be"),
        ({"commit": "main"}, r"commit must be the 40 digits of a commit, got 'main'"),
        ({"base_hash": HASH.upper()}, r"base_hash must be 16 hexadecimal digits"),
        ({"format": "whole"}, r"format must be one of 'adapter', 'pipeline', got 'whole'"),
        ({"mixers": []}, r"mixers must not be empty"),
        ({"license": "mit\n"}, r"license must be the id or name of a licence, got 'mit\\n'"),
        ({"license": "\x1b[31m"}, r"license must be the id or name of a licence"),
        ({"bytes": 0}, r"bytes must be 1 or more"),
        ({"measures": {"kd": float("nan")}}, r"measures\['kd'\] must be a finite number, got nan"),
        ({"measures": {"kd": True}}, r"measures\['kd'\] must be a number, got True"),
        ({"measures": {"K D": 1}}, r"measures must be lower-case words"),
        ({"licence": "mit"}, r"entries\[0\] has 'licence', which no entry has; entries have repo, commit"),
    ],
)
def test_what_is_malformed_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "zoo.json"
    path.write_text(json.dumps({"schema": 1, "entries": [{**make_entry().to_json(), **changes}]}))
    with pytest.raises(ZooError, match=message) as caught:
        open_index(path)
    assert str(caught.value).startswith(f"{path}: entries[0]")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "no index of LinFusion checkpoints"),
        ({"schema": 1, "entries": {}}, "no index of LinFusion checkpoints"),
        ({"schema": 2, "entries": []}, "of schema 2, and this linzoo reads 1; update linzoo"),
        ({"schema": 1, "entries": [7]}, r"entries\[0\] must be an object, got 7"),
        ({"schema": 1, "entries": [{"repo": "user/a"}]}, r"entries\[0\] lacks 'commit'"),
        ({"schema": 1, "entries": [make_entry().to_json()] * 2}, "lists user/a twice"),
    ],
)
def test_documents_that_are_no_index(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        parse_index(document, "zoo.json")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.json: cannot be read: No such file"):
        open_index(tmp_path / "none.json")
    (tmp_path / "zoo.json").write_text("[1,")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_index(tmp_path / "zoo.json")


def test_an_entry_is_added_or_replaced_in_its_place(tmp_path: Path) -> None:
    index = open_index(write_index(tmp_path / "zoo.json", make_entry("user/c"), make_entry("user/a")))
    more = index.with_entry(make_entry("user/b")).with_entry(make_entry("user/a", license="mit"))
    assert [entry.repo for entry in more.entries] == ["user/a", "user/b", "user/c"]
    assert more.of("user/a") == make_entry("user/a", license="mit")
    assert more.of("user/d") is None


class TestOnTheHub:
    def test_it_is_read_at_the_revision_that_is_named_and_again_without_a_network(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def put(*listed: ZooEntry) -> str:
            return hub.put("user/zoo", {INDEX_NAME: encode_index(Index("", listed))}, repo_type="dataset")

        first = put(make_entry("user/a"))
        put(make_entry("user/a"), make_entry("user/b"))
        assert len(open_index("hf://datasets/user/zoo").entries) == 2
        assert open_index(f"hf://datasets/user/zoo@{first}").entries == (make_entry("user/a"),)
        asked = len(hub.requests)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert len(open_index("hf://datasets/user/zoo").entries) == 2
        assert len(hub.requests) == asked
        with pytest.raises(CheckpointError, match="not in the local cache"):
            open_index("hf://datasets/user/other")

    def test_one_without_the_file_and_one_that_is_not_there(self, hub: FakeHub) -> None:
        hub.put("user/zoo", {"README.md": b"# Zoo"}, repo_type="dataset")
        with pytest.raises(ZooError, match=r"holds no zoo\.json; 'linzoo zoo add' proposes one"):
            open_index("hf://datasets/user/zoo")
        with pytest.raises(CheckpointError, match="no such repository"):
            open_index("hf://datasets/user/none")

    @pytest.mark.parametrize(
        "where",
        [
            "hf://user/zoo",
            "hf://datasets",
            "hf://spaces/user/zoo",
            "https://huggingface.co/datasets/user/zoo",
            "hf://datasets/user/zoo/zoo.bin",
            "https://elsewhere/zoo.json",
        ],
    )
    def test_other_addresses_are_refused(self, where: str) -> None:
        with pytest.raises(
            ZooError, match=r"an index on the Hub is a dataset: write hf://datasets/user/name"
        ):
            open_index(where)


def test_what_the_shipped_name_of_a_checkpoint_is() -> None:
    assert make_entry("user/a").checkpoint == f"hf://user/a@{COMMIT}"
    assert make_entry("user/a", commit=None).checkpoint == "hf://user/a"
    assert make_entry("mini-linfusion", commit=None).checkpoint == "mini-linfusion"
