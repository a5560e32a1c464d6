"""Which licence a checkpoint is published under."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linzoo.checkpoints.license import License, license_in
from linzoo.errors import CheckpointError, UsageError
from linzoo.hub.license import Claim, parse_license, require_agreement, settle

RAIL = License("creativeml-openrail-m", None, None, "inherited from the card of user/tune at commit 0123abc")
APACHE = License("apache-2.0", None, None, "inherited from the card of user/linfusion at commit 4567def")
FAIR = License("other", "fair-ai-public-license-1.0-sd", "https://freedevproject.org/faipl-1.0-sd/", "a card")


def claim(license: License | None, about: str = "the teacher") -> Claim:
    return Claim(about, license, "the card of user/tune at commit 0123abc" if license else "a local file")


def test_one_licence_is_inherited_with_where_it_is_from() -> None:
    assert settle([claim(RAIL)], None) is RAIL
    assert settle([claim(RAIL), claim(RAIL, "their base model")], None) == RAIL
    assert settle([claim(FAIR)], None) == FAIR


def test_an_unknown_licence_stops_the_push_until_it_is_named() -> None:
    with pytest.raises(
        CheckpointError, match=r"(?s)unknown:\n  the teacher: unknown \(a local file\).*--license"
    ):
        settle([claim(None)], None)
    assert settle([claim(None)], parse_license("apache-2.0")).id == "apache-2.0"
    with pytest.raises(CheckpointError, match="nothing says what this was made from"):
        settle([], None)


def test_what_is_known_of_one_part_does_not_cover_another() -> None:
    found = [claim(RAIL), claim(None, "the weights that it started from")]
    with pytest.raises(CheckpointError, match="the weights that it started from: unknown"):
        settle(found, None)
    assert settle(found, parse_license("CreativeML-OpenRAIL-M")).id == RAIL.id


def test_conflicting_licences_are_listed_and_one_of_them_must_be_chosen() -> None:
    found = [claim(RAIL), claim(APACHE, "the weights that it started from")]
    with pytest.raises(CheckpointError) as caught:
        settle(found, None)
    assert "the teacher: creativeml-openrail-m" in str(caught.value)
    assert "the weights that it started from: apache-2.0" in str(caught.value)
    chosen = settle(found, parse_license("apache-2.0"))
    assert chosen.id == "apache-2.0"
    assert "creativeml-openrail-m" in chosen.origin, "a reader sees what it was chosen over"


def test_two_licences_that_are_not_on_the_list_are_told_apart_by_name() -> None:
    other = License("other", "stabilityai-ai-community", "https://stability.ai/license", "a card")
    with pytest.raises(CheckpointError, match="different licences"):
        settle([claim(FAIR), claim(other, "their base model")], None)


@pytest.mark.parametrize("found", [[claim(RAIL)], [claim(RAIL), claim(None)], [claim(RAIL), claim(APACHE)]])
def test_nothing_is_relicensed(found: list[Claim]) -> None:
    with pytest.raises(CheckpointError, match="mit is not what this was made under"):
        settle(found, parse_license("mit"))


LICENSES = st.sampled_from([None, RAIL, APACHE, FAIR])


@given(st.lists(LICENSES, min_size=1, max_size=4), st.sampled_from([None, "apache-2.0", "mit"]))
def test_whatever_is_settled_is_claimed_or_fills_what_is_unknown(
    licenses: list[License | None], declared: str | None
) -> None:
    known = {each.identity for each in licenses if each is not None}
    said = parse_license(declared) if declared else None
    try:
        settled = settle([claim(each) for each in licenses], said)
    except CheckpointError:
        return
    assert settled.identity in known or (not known and said is not None and settled.id == said.id)
    assert settled.origin


def test_license_option() -> None:
    assert parse_license("Apache-2.0") == License("apache-2.0", None, None, "declared by who published this")
    own = parse_license("faipl=https://freedevproject.org/faipl")
    assert (own.id, own.name, own.link) == ("other", "faipl", "https://freedevproject.org/faipl")
    for text, says in [
        ("other", "does not say which"),
        ("unknown", "does not say which"),
        ("", "no id"),
        ("a b", "no id"),
        ("faipl=ftp://x", "not of the form"),
        ("=https://x", "not of the form"),
    ]:
        with pytest.raises(UsageError, match=says):
            parse_license(text)


def test_metadata_of_a_card() -> None:
    assert license_in({}, "x") is None
    assert license_in({"license": None}, "x") is None
    assert license_in({"license": ["mit", "apache-2.0"]}, "x") is None, "two are no answer"
    assert license_in({"license": ["MIT"]}, "x") == License("mit", None, None, "x")
    card = {"license": "other", "license_name": "faipl", "license_link": "LICENSE.md"}
    assert license_in(card, "x") == License("other", "faipl", "LICENSE.md", "x")


def test_what_does_not_say_which_is_no_licence() -> None:
    assert license_in({"license": "unknown"}, "x") is None
    assert license_in({"license": "other"}, "x") is None
    one, two = ({"license": "other", "license_link": link} for link in ("https://a/1", "https://a/2"))
    first, second = license_in(one, "x"), license_in(two, "x")
    assert first is not None
    assert second is not None
    assert str(first) == "other (https://a/1)"
    with pytest.raises(CheckpointError, match="different licences"):
        settle([claim(first), claim(second)], None)


def test_the_card_that_is_in_the_repository_is_not_contradicted() -> None:
    for card in (None, "no metadata\n", "---\ntags: [a]\n---\ntext\n", "---\nlicense: unknown\n---\n"):
        require_agreement(RAIL, card, "me/model")
    require_agreement(APACHE, "---\nlicense: Apache-2.0\n---\n", "me/model")
    with pytest.raises(
        CheckpointError, match=r"me/model: its README\.md says that it is under mit, and this would be"
    ):
        require_agreement(RAIL, "---\nlicense: mit\n---\ntext\n", "me/model")
    with pytest.raises(CheckpointError, match=r"me/model: the metadata of its README\.md is damaged"):
        require_agreement(RAIL, "---\nlicense: [mit\n---\ntext\n", "me/model")
