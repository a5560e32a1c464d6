"""FrozenMap, freeze and thaw, and the form of ids, for whatever hypothesis comes up with."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linzoo.plugin import FrozenMap, SpecError, freeze, thaw
from linzoo.plugin.spec import ID, REFERENCE, check_id, check_reference

# Few and small examples: the structure matters here, and nested strategies are slow.
few = settings(max_examples=40, deadline=None)
keys = st.text(max_size=4)
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | keys
plain = st.recursive(
    leaves,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(keys, deeper, max_size=3),
    max_leaves=8,
)
dicts = st.dictionaries(keys, plain, max_size=4)
words = st.text("abcxyz0189", min_size=1)


@few
@given(plain)
def test_thaw_undoes_freeze(value: Any) -> None:
    assert thaw(freeze(value)) == value


@few
@given(plain)
def test_freezing_twice_changes_nothing(value: Any) -> None:
    assert freeze(freeze(value)) == freeze(value)


@few
@given(dicts)
def test_equal_maps_have_equal_hashes_whatever_their_order(items: dict[str, Any]) -> None:
    one, other = FrozenMap(items), FrozenMap(dict(reversed(items.items())))
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1


@few
@given(dicts)
def test_a_map_is_a_mapping(items: dict[str, Any]) -> None:
    frozen = FrozenMap(items)
    assert list(frozen) == list(items)
    assert len(frozen) == len(items)
    assert all(thaw(frozen[key]) == value for key, value in items.items())
    assert pickle.loads(pickle.dumps(frozen)) == frozen == copy.deepcopy(frozen)


@few
@given(dicts)
def test_what_the_author_changes_later_does_not_show(items: dict[str, Any]) -> None:
    before = copy.deepcopy(items)
    frozen = FrozenMap(items)
    items.clear()
    assert thaw(frozen) == before


def test_a_map_cannot_be_changed() -> None:
    frozen: Any = FrozenMap({"a": 1})
    with pytest.raises(TypeError):
        frozen["b"] = 2
    with pytest.raises(TypeError):
        del frozen["a"]
    assert repr(frozen) == "FrozenMap({'a': 1})"


@few
@given(st.lists(words, min_size=1), st.sampled_from("._-"))
def test_words_joined_by_one_mark_are_ids(parts: list[str], mark: str) -> None:
    id = mark.join(parts)
    check_id("X.id", id)
    check_reference("X.refines", id, f"Linzoo-Kolors.XL::{id}", None)


@few
@given(st.text())
def test_an_id_is_safe_in_a_file_name_and_on_a_command_line(text: str) -> None:
    if not ID.fullmatch(text):
        with pytest.raises(SpecError, match=r"^X\.id must be "):
            check_id("X.id", text)
        return
    assert text == text.lower()
    assert not set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert text[0].isalnum()
    assert ".." not in text
    assert REFERENCE.fullmatch(text)


@pytest.mark.parametrize("text", ["", "A", "a b", "-a", "a-", "a--b", "a/b", "a\n", "é", "a::b"])
def test_what_is_no_id(text: str) -> None:
    with pytest.raises(SpecError):
        check_id("X.id", text)
