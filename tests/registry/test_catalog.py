"""Looking entries up: close matches, full names, and ids that two plugins provide."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dists import HEAD, Site, mixer, variant, variants

from linzoo.registry import AmbiguousIdError, Registry, UnknownIdError


def test_entries_are_sorted_and_carry_their_plugin(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-z", mixer("alpha"))
    site.add("linzoo-a", mixer("omega"))
    registry = build()
    assert [each.full_id for each in registry.mixers] == ["linzoo-z::alpha", "linzoo-a::omega"]
    assert registry.mixers.get_value("omega").id == "omega"
    assert registry.mixers["omega"].plugin.label == "linzoo-a 1.0"


def test_one_id_from_two_plugins_hurts_only_that_name(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", mixer("turbo"))
    site.add("linzoo-b", mixer("turbo"))
    site.add("linzoo-c", mixer("fine"))
    mixers = build().mixers
    assert mixers["fine"].plugin.name == "linzoo-c"
    assert mixers["Linzoo_B::turbo"].plugin.name == "linzoo-b"
    with pytest.raises(AmbiguousIdError) as caught:
        mixers["turbo"]
    assert str(caught.value) == (
        "mixer 'turbo' is provided by 2 plugins [LZP403]\n"
        "  linzoo-a 1.0: use 'linzoo-a::turbo'\n"
        "  linzoo-b 1.0: use 'linzoo-b::turbo'"
    )


def test_two_entry_points_of_one_distribution_can_be_told_apart(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-a", mixer("turbo"))
    site.folder.joinpath("linzoo_a_more.py").write_text(mixer("turbo"))
    points = site.folder / "linzoo_a-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "more = linzoo_a_more\n")
    mixers = build().mixers
    with pytest.raises(AmbiguousIdError, match="use 'linzoo-a:more::turbo'"):
        mixers["linzoo-a::turbo"]
    assert mixers["linzoo-a:more::turbo"].plugin.candidate.name == "more"
    assert [each.full_id for each in mixers] == ["linzoo-a:a::turbo", "linzoo-a:more::turbo"]
    remedies = {problem.remedy for each in mixers for problem in each.plugin.problems}
    assert remedies == {f"use the full name '{each.full_id}'" for each in mixers}


def test_a_builtin_keeps_the_short_name(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", mixer("softmax"))
    registry = build("linzoo_mixers")
    assert registry.mixers["softmax"].plugin.name == "linzoo_mixers"
    assert registry.mixers["linzoo-a::softmax"].plugin.name == "linzoo-a"
    assert registry.plugins_called("linzoo_mixers")[0].problems == []
    assert registry.plugins_called("linzoo-a")[0].problems[0].code == "LZP403"
    assert registry.warnings() == []


def test_an_unknown_id_names_close_ones_and_the_plugins_that_might_have_it(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-kolors", "raise ImportError('no triton')")
    site.add("linzoo-off", mixer("off"))
    registry = build("linzoo_mixers", env={"LINZOO_DISABLE_PLUGINS": "off"})
    with pytest.raises(UnknownIdError) as caught:
        registry.mixers["sofmax"]
    assert str(caught.value) == (
        "unknown mixer 'sofmax'\n"
        "  did you mean 'softmax'?\n"
        "  plugin linzoo-kolors 1.0 failed to load and may provide it: "
        "cannot be imported: ImportError: no triton [LZP101]\n"
        "  plugin linzoo-off 1.0 is disabled and may provide it"
    )
    with pytest.raises(UnknownIdError, match=r"^unknown id 'randm'\n  did you mean 'random'\?\n"):
        registry.find("randm")


def test_an_unknown_id_that_is_like_nothing_tells_where_all_are(
    site: Site, build: Callable[..., Registry]
) -> None:
    with pytest.raises(UnknownIdError, match=r"^unknown mixer 'xyz'\n  all ids: linzoo list$"):
        build("linzoo_mixers").mixers["xyz"]


def test_two_plugins_may_share_a_name(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", mixer("a"), entry="k")
    site.add("linzoo-b", mixer("b"), entry="k")
    registry = build()
    assert [status.name for status in registry.plugins_called("k")] == ["linzoo-a", "linzoo-b"]


def test_find_looks_into_every_kind(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", variants(variant("teacher")))
    found = build("linzoo_mixers").find("teacher")
    assert [kind.name for kind, _ in found] == ["variants", "plans", "inits"]


def test_plugins_are_found_by_any_of_their_names(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-kolors", mixer("a"), entry="k")
    registry = build()
    for name in ("linzoo-kolors", "LINZOO_KOLORS", "k", "linzoo-kolors:k"):
        assert registry.plugins_called(name)[0].label == "linzoo-kolors 1.0"
    with pytest.raises(UnknownIdError, match="no plugin is called 'kolor'; installed are: linzoo-kolors"):
        registry.plugins_called("kolor")[0]


class TestPlans:
    """Plans of a variant, and of what it refines."""

    @pytest.fixture
    def registry(self, site: Site, build: Callable[..., Registry]) -> Registry:
        site.add(
            "linzoo-family",
            variants(variant("base"), variant("fine", refines="base"), variant("finest", refines="fine")),
        )
        site.add(
            "linzoo-plans",
            HEAD + "@hookimpl\ndef linzoo_attention_plans():\n"
            "    for v in ('base', 'twice'):\n"
            "        yield AttentionPlan(id=f'{v}-slow', variant=v, expect_replaced=0, "
            "rules=(AttentionRule(mixer='softmax'),))\n",
        )
        for name in ("linzoo-x", "linzoo-y"):
            site.add(name, variants(variant("twice")))
        return build("linzoo_mixers")

    def test_lineage_goes_from_special_to_general(self, registry: Registry) -> None:
        assert [each.value.id for each in registry.lineage("finest")] == ["finest", "fine", "base"]

    def test_own_plans_come_first(self, registry: Registry) -> None:
        ids = [plan.value.id for plan in registry.plans_for("fine")]
        assert ids == ["fine", "base", "base-slow"]

    def test_a_plan_of_an_ambiguous_variant_is_in_nobodys_way(self, registry: Registry) -> None:
        assert registry.plugins_called("linzoo-plans")[0].state == "ok"
        assert [plan.plugin.name for plan in registry.plans_for("linzoo-y::twice")] == ["linzoo-y"]
