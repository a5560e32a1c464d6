"""Names of pictures: skin tones dropped, country flags dropped, run-together keys cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linzoo_recipes.mini.captions import caption, clean_name, code_point_names, keyed_names, split_names
from linzoo_recipes.mini.concepts import CORE, sampling_weights


def test_caption_is_name_and_style() -> None:
    assert caption("red apple", "3d") == "red apple, 3d emoji"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Red Apple", "red apple"),
        ("flag: Côte", "flag c te"),
        ("woman\u2019s hat", "womans hat"),
        ("man's shoe", "mans shoe"),
        ("1st place medal", "1st place medal"),
    ],
)
def test_clean_name(text: str, name: str) -> None:
    assert clean_name(text) == name


def test_spelled_out_skin_tones_are_dropped_wherever_they_stand() -> None:
    keys = ["ear", "ear-dark-skin-tone", "woman-light-skin-tone-curly-hair", "woman-curly-hair"]
    assert keyed_names(keys) == {"ear": "ear", "woman-curly-hair": "woman curly hair"}


def test_bare_tone_counts_only_beside_its_base() -> None:
    keys = ["baby", "baby-medium-dark", "baby-light", "horizontal-traffic-light", "flashlight"]
    assert set(keyed_names(keys)) == {"baby", "horizontal-traffic-light", "flashlight"}


def test_flag_keys_lose_iconifys_doubling() -> None:
    assert keyed_names(["flag-for-flag-germany"]) == {"flag-for-flag-germany": "flag germany"}


def test_code_points_are_named_by_label_without_tones_and_country_flags() -> None:
    emojibase = [
        {"hexcode": "1F34E", "label": "red apple"},
        {"hexcode": "2764-FE0F", "label": "red heart"},
        {"hexcode": "1F1E9-1F1EA", "label": "flag: Germany"},
        {"hexcode": "1F44B-1F3FF", "label": "waving hand: dark skin tone"},
        {"hexcode": "1F3F4-E0067-E0062", "label": "flag: England"},
    ]
    keys = ["1f34e", "2764", "1f1e9-1f1ea", "1f44b-1f3ff", "1f3f4-e0067-e0062", "1f999"]
    assert code_point_names(keys, emojibase) == {"1f34e": "red apple", "2764": "red heart"}


def test_run_together_keys_are_cut_by_known_words() -> None:
    known = ["red apple", "green apple", "alarm clock", "art"]
    found = split_names(["redapple", "alarmclock", "apple", "aubergine"], known)
    assert found == {"redapple": "red apple", "alarmclock": "alarm clock", "apple": "apple"}


@given(st.lists(st.text("abcde", min_size=2, max_size=6), min_size=1, max_size=6))
def test_a_cut_name_spells_its_key(words: list[str]) -> None:
    key = "".join(words)
    assert split_names([key], words)[key].replace(" ", "") == key


def test_sampling_gives_the_core_its_share_and_seldom_things_less() -> None:
    names = ["red apple", "red heart", "violin", "flag germany", "woman judge"]
    assert {"red apple", "red heart"} <= CORE
    weights = sampling_weights(names, core=0.7, seldom=0.1).tolist()
    assert weights == pytest.approx([0.35, 0.35, 0.25, 0.025, 0.025])


def test_sampling_without_any_core_name_is_still_a_distribution() -> None:
    assert sampling_weights(["violin", "harp"]).tolist() == pytest.approx([0.5, 0.5])
