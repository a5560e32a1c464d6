"""What entries name must exist, and variants must not go in circles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dists import HEAD, Site, mixer, variant, variants

from linzoo.registry import Registry

DANGLING = {
    "plan-variant": (
        "linzoo_attention_plans",
        "AttentionPlan(id='p', variant='nowhere', rules=(AttentionRule(mixer='softmax'),), expect_replaced=0)",
        "attention plan 'p' names the variant 'nowhere'",
    ),
    "init-mixer": (
        "linzoo_init_recipes",
        "InitRecipe(id='i', build=LazyRef('a:b'), mixers=('nowhere',))",
        "init recipe 'i' names the mixer 'nowhere'",
    ),
    "recipe-variant": (
        "linzoo_distill_recipes",
        "DistillRecipe(id='r', variant='nowhere', document=Resource('a', 'b'))",
        "distill recipe 'r' names the variant 'nowhere'",
    ),
    "encoder-variant": (
        "linzoo_encoders",
        "Encoder(id='e', kind='image', build=LazyRef('a:b'), license='mit', variants=('nowhere',))",
        "encoder 'e' names the variant 'nowhere'",
    ),
    "variant-refines": (
        "linzoo_variants",
        variant("v", refines="nowhere"),
        "variant 'v' names the attention plan 'v'",
    ),
}


@pytest.mark.parametrize("case", DANGLING)
def test_names_that_nobody_provides(site: Site, build: Callable[..., Registry], case: str) -> None:
    hook, text, says = DANGLING[case]
    site.add("linzoo-a", HEAD + f"@hookimpl\ndef {hook}(): return [{text}]\n")
    (problem,) = build("linzoo_mixers").plugins_called("linzoo-a")[0].problems
    assert problem.code == "LZP401"
    assert problem.message == f"{says}, which no plugin provides"


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ({"refines": "nowhere"}, "variant"),
        ({"before": ("nowhere",)}, "variant"),
        ({"default_init": "nowhere"}, "init recipe"),
        ({"default_distill": "nowhere"}, "distill recipe"),
    ],
)
def test_every_reference_of_a_variant(
    site: Site, build: Callable[..., Registry], field: dict[str, object], kind: str
) -> None:
    site.add("linzoo-a", variants(variant("v", **field)))
    (problem,) = build("linzoo_mixers").plugins_called("linzoo-a")[0].problems
    assert problem.message == f"variant 'v' names the {kind} 'nowhere', which no plugin provides"


def test_rules_name_mixers(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", variants(variant("v")).replace("'softmax'", "'sofmax'"))
    (problem,) = build("linzoo_mixers").plugins_called("linzoo-a")[0].problems
    assert problem.message == "attention plan 'v' names the mixer 'sofmax', which no plugin provides"
    assert problem.remedy == "did you mean 'softmax'?"


def test_references_may_be_full_names_and_prefer_their_own_plugin(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-a", variants(variant("turbo"), variant("a", refines="turbo")))
    site.add("linzoo-b", variants(variant("turbo"), variant("b", refines="linzoo-a::turbo")))
    registry = build("linzoo_mixers")
    assert {status.state for status in registry.plugins} == {"ok"}
    assert [each.full_id for each in registry.lineage("a")] == ["linzoo-a::a", "linzoo-a::turbo"]
    assert [each.full_id for each in registry.lineage("b")] == ["linzoo-b::b", "linzoo-a::turbo"]


def test_an_ambiguous_name_is_no_fault_of_who_uses_it(site: Site, build: Callable[..., Registry]) -> None:
    for name in ("linzoo-a", "linzoo-b"):
        site.add(name, mixer("gla"))
    site.add("linzoo-c", variants(variant("v")).replace("'softmax'", "'gla'"))
    assert build("linzoo_mixers").plugins_called("linzoo-c")[0].state == "ok"


@pytest.mark.parametrize(
    ("first", "second"),
    [("refines", "refines"), ("before", "before"), ("refines", "before")],
)
def test_a_circle_through_two_plugins_leaves_both_out(
    site: Site, build: Callable[..., Registry], first: str, second: str
) -> None:
    value = {"refines": "{}", "before": ("{}",)}
    site.add("linzoo-a", variants(variant("a", **{first: value[first]})).replace("{}", "b"))
    site.add("linzoo-b", variants(variant("b", **{second: value[second]})).replace("{}", "a"))
    site.add("linzoo-c", variants(variant("c")))
    registry = build("linzoo_mixers")
    assert [each.value.id for each in registry.variants] == ["c"]
    problems = {status.name: status.problems[0] for status in registry.plugins if status.problems}
    assert problems["linzoo-a"].message == (
        "the variants 'a' -> 'b' -> 'a' refine or precede each other in a circle"
    )
    assert problems["linzoo-b"].code == "LZP401"


def test_a_variant_that_refines_itself(site: Site, build: Callable[..., Registry]) -> None:
    site.add("linzoo-a", variants(variant("a", refines="a")))
    (problem,) = build("linzoo_mixers").plugins_called("linzoo-a")[0].problems
    assert problem.message == "the variants 'a' -> 'a' refine or precede each other in a circle"


def test_a_circle_is_found_behind_a_variant_of_the_same_full_name(
    site: Site, build: Callable[..., Registry]
) -> None:
    site.add("linzoo-a", variants(variant("x")))
    site.folder.joinpath("linzoo_a_more.py").write_text(
        variants(variant("x", refines="y"), variant("y", refines="x"))
    )
    points = site.folder / "linzoo_a-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "more = linzoo_a_more\n")
    registry = build("linzoo_mixers")
    assert [(status.candidate.name, status.state) for status in registry.plugins[1:]] == [
        ("a", "ok"),
        ("more", "broken"),
    ]


def test_a_long_chain_is_no_circle(site: Site, build: Callable[..., Registry]) -> None:
    """Longer than Python's recursion limit."""
    chain = "{each} for i in range(1500)".format(each=variant("{}").replace("'{}'", "f'v{i}'"))
    body = variants(
        "*[" + chain.replace("default_plan", "refines=f'v{i + 1}' if i < 1499 else None, default_plan") + "]"
    )
    site.add("linzoo-a", body)
    registry = build("linzoo_mixers")
    assert len(registry.lineage("v0")) == 1500


def test_a_lineage_ends_where_a_name_is_ambiguous(site: Site, build: Callable[..., Registry]) -> None:
    for name in ("linzoo-a", "linzoo-b"):
        site.add(name, variants(variant("twice")))
    site.add("linzoo-c", variants(variant("fine", refines="twice")))
    registry = build("linzoo_mixers")
    assert [each.value.id for each in registry.lineage("fine")] == ["fine"]
    assert [each.value.id for each in registry.plans_for("fine")] == ["fine"]


def test_a_diamond_is_no_circle(site: Site, build: Callable[..., Registry]) -> None:
    diamond = (
        variant("a", refines="b", before=("c",)),
        variant("b", before=("d",)),
        variant("c", before=("d",)),
        variant("d"),
    )
    site.add("linzoo-a", variants(*diamond))
    assert len(build("linzoo_mixers").variants) == 4
