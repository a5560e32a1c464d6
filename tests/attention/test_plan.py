"""The self-attention sites of a UNet are those that diffusers builds, and plans are applied in order."""

from __future__ import annotations

from typing import Any

import pytest
from unet_configs import UNETS

from linzoo.attention.plan import AttentionSite, resolve_plan, sites_of
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.errors import CheckpointError, LinzooError, UsageError
from linzoo.plugin import AttentionPlan, AttentionRule
from linzoo.registry.catalog import Registered
from tests.init.toys import toy_config, toy_registry

SD = UNETS["sd15"]


def of_diffusers(
    config: dict[str, Any], cls: str = "UNet2DConditionModel"
) -> tuple[list[AttentionSite], dict]:
    """Self-attention modules as diffusers' own objects say it, and the shapes of the UNet."""
    import diffusers
    import torch
    from diffusers.models.attention_processor import Attention

    with torch.device("meta"):
        unet = getattr(diffusers, cls)(**config)
    shapes = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    sites = [
        AttentionSite(name, module.to_q.in_features, module.heads)
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and not module.is_cross_attention and "motion_modules" not in name
        and name.endswith("attn1")
    ]  # fmt: skip
    return sites, shapes


@pytest.mark.parametrize(
    "name", ["sd15", "sd21", "sdxl", "sdxl-refiner", "ssd-1b", "sd-x4-upscaler", "segmind-vega", "kolors"]
)
def test_sites_of_published_unets(name: str) -> None:
    expected, shapes = of_diffusers(UNETS[name])
    assert sites_of(UNETS[name], shapes) == expected
    assert sites_of(UNETS[name], unet_manifest(UNETS[name])) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"only_cross_attention": True},
        {"only_cross_attention": True, "mid_block_only_cross_attention": False},
        {"only_cross_attention": [True, False, False, False]},
        {"only_cross_attention": [False, True, False, False], "mid_block_only_cross_attention": True},
        {"attention_head_dim": [5, 10, 20, 20]},
        {"cross_attention_dim": 320, "only_cross_attention": [True, False, False, False]},
    ],
)
def test_sites_of_unets_whose_attn1_is_not_always_self_attention(change: dict[str, Any]) -> None:
    config = {**SD, **change}
    expected, shapes = of_diffusers(config)
    assert sites_of(config, shapes) == expected


def test_motion_modules_are_left_out() -> None:
    config = {
        key: value
        for key, value in SD.items()
        if key not in ("down_block_types", "up_block_types", "attention_head_dim")
    }
    kinds = {
        "down_block_types": ["CrossAttnDownBlockMotion"] * 3 + ["DownBlockMotion"],
        "up_block_types": ["UpBlockMotion"] + ["CrossAttnUpBlockMotion"] * 3,
        "num_attention_heads": 8,
    }
    expected, shapes = of_diffusers(config | kinds, "UNetMotionModel")
    assert len(expected) == 16
    assert any("motion_modules" in name and name.endswith("attn1.to_q.weight") for name in shapes)
    assert sites_of(config | kinds, shapes) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"down_block_types": None}, "no 'down_block_types'"),
        ({"down_block_types": []}, "no 'down_block_types'"),
        ({"attention_head_dim": [8, 8]}, r"has 3 levels, and \[8, 8\]"),
        ({"attention_head_dim": -8}, "has 3 levels, and -8"),
        ({"attention_head_dim": True}, "has 3 levels, and True"),
        ({"attention_head_dim": 5}, "32x32 query matrix and 5 heads"),
        ({"only_cross_attention": "no"}, "has 3 levels, and 'no'"),
        ({"down_block_types": ["CrossAttnDownBlock2D"], "attention_head_dim": 4}, "its config has 1 levels"),
    ],
)
def test_configs_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    config = toy_config()
    with pytest.raises(CheckpointError, match=message):
        sites_of({**config, **change}, unet_manifest(config))


@pytest.mark.parametrize(("shape", "message"), [((32,), "is no matrix"), ((32, 64), "needs a square one")])
def test_shapes_that_cannot_be(shape: tuple[int, ...], message: str) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    with pytest.raises(CheckpointError, match=message):
        sites_of(toy_config(), {name: shape})


# --- plans

SITES = sites_of(toy_config(), unet_manifest(toy_config()))


def resolve(*rules: AttentionRule, expect: int) -> list[str]:
    registry = toy_registry()
    plan = AttentionPlan(id="p", variant="toy", rules=rules, expect_replaced=expect)
    home = registry.plugins_called("linzoo_mixers")[0]
    return [each.mixer.id for each in resolve_plan(Registered(plan, home), SITES, registry)]


def test_the_first_rule_that_matches_wins() -> None:
    softmax = AttentionRule(match="up_blocks.2.*", mixer="softmax")
    wide = AttentionRule(match="up_blocks.*", channels=64, mixer="generalized-linear")
    rest = AttentionRule(mixer="softmax")
    linear = AttentionRule(mixer="generalized-linear")
    assert (
        resolve(softmax, wide, rest, expect=2)
        == ["softmax", "softmax"] + ["generalized-linear"] * 2 + ["softmax"] * 3
    )
    assert resolve(linear, softmax, expect=7) == ["generalized-linear"] * 7


def test_a_glob_matches_letters_as_they_are() -> None:
    linear = AttentionRule(match="MID_BLOCK.*", mixer="generalized-linear")
    with pytest.raises(UsageError, match="has no rule for 7"):
        resolve(linear, expect=0)


def test_options_are_given_to_the_mixer() -> None:
    registry = toy_registry()
    narrow = resolve_plan(registry.plans["toy-narrow"], SITES, registry)
    assert narrow[1].shapes()["to_q_.0.weight"] == (8, 64)
    hybrid = resolve_plan(registry.plans["toy-hybrid"], SITES, registry)
    assert hybrid[-1].shapes() == {}
    assert [each.replaced for each in hybrid] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("rules", "expect", "message"),
    [
        ([{"mixer": "generalized-linear", "match": "down_blocks.*"}], 2, "no rule for 5 .*\n  up_blocks.1.*32 channels"),
        ([{"mixer": "generalized-linear"}], 16, "expects to replace 16 .* replaces 7"),
        ([{"mixer": "general-linear"}], 7, "unknown mixer 'general-linear'"),
        ([{"mixer": "softmax", "options": {"scale": 2}}], 0, "takes no option 'scale'; it takes: none"),
        (
            [{"mixer": "generalized-linear", "options": {"projection_mid_divider": 2}}], 7,
            "did you mean 'projection_mid_divisor'",
        ),
    ],
)  # fmt: skip
def test_plans_that_do_not_fit(rules: list[dict[str, Any]], expect: int, message: str) -> None:
    with pytest.raises(LinzooError, match=f"(?s){message}"):
        resolve(*(AttentionRule(**rule) for rule in rules), expect=expect)


@pytest.mark.parametrize("plan", ["sd15-full", "sd21-full", "sdxl-full"])
def test_built_in_plans_fit_their_variants(plan: str) -> None:
    from linzoo.checkpoints.components import component_config
    from linzoo.registry import build_registry

    registry = build_registry(entry_points=False, env={})
    chosen = registry.plans[plan]
    config = component_config(registry.variants.get_value(chosen.value.variant), "unet")
    placements = resolve_plan(chosen, sites_of(config, unet_manifest(config)), registry)
    assert sum(each.replaced for each in placements) == (70 if plan == "sdxl-full" else 16)
