"""A plugin with small variants of SD structure.

``toy`` predicts epsilon, ``toy-inpaint`` refines it, ``toy-either`` may predict v too, ``toy-wide`` is 200 MB large.
"""

from __future__ import annotations

from collections.abc import Iterator

from linzoo.plugin import (
    AttentionPlan,
    AttentionRule,
    Fingerprint,
    InitRecipe,
    LazyRef,
    Mixer,
    Resource,
    Variant,
    hookimpl,
)

COMPONENTS = Resource("tests.init.toyzoo", "components")
DEPTH = (1, 1, 0)


@hookimpl
def linzoo_variants() -> Iterator[Variant]:
    yield Variant(
        id="toy",
        fingerprint=Fingerprint(
            channels=32, in_channels=4, context_dim=24, linear_projection=False, depth=DEPTH, mid_depth=1
        ),
        components=COMPONENTS,
        native_size={"epsilon": 64},
        prediction_types=("epsilon",),
        default_plan="toy-full",
    )
    yield Variant(
        id="toy-inpaint",
        refines="toy",
        fingerprint=Fingerprint(
            channels=32, in_channels=9, context_dim=24, linear_projection=False, depth=DEPTH, mid_depth=1
        ),
        components=COMPONENTS,
        component_overrides={"unet": {"in_channels": 9}},
        native_size={"epsilon": 64},
        prediction_types=("epsilon",),
        default_plan="toy-full",
    )
    yield Variant(
        id="toy-either",
        fingerprint=Fingerprint(
            channels=32, in_channels=4, context_dim=40, linear_projection=False, depth=DEPTH, mid_depth=1
        ),
        components=COMPONENTS,
        component_overrides={"unet": {"cross_attention_dim": 40, "attention_head_dim": [2, 4, 8]}},
        native_size={"epsilon": 64, "v_prediction": 96},
        prediction_types=("epsilon", "v_prediction"),
        default_plan="toy-either-full",
    )
    yield Variant(
        id="toy-wide",
        fingerprint=Fingerprint(
            channels=192, in_channels=4, context_dim=24, linear_projection=False, depth=DEPTH, mid_depth=1
        ),
        components=COMPONENTS,
        component_overrides={"unet": {"block_out_channels": [192, 448, 640]}},
        native_size={"epsilon": 64},
        prediction_types=("epsilon",),
        default_plan="toy-wide-full",
    )


@hookimpl
def linzoo_attention_plans() -> Iterator[AttentionPlan]:
    linear = AttentionRule(mixer="generalized-linear")
    narrow = AttentionRule(mixer="generalized-linear", options={"projection_mid_divisor": 8})
    keep_mid = AttentionRule(match="mid_block.*", mixer="softmax")
    keep_wide = AttentionRule(channels=32, mixer="softmax")
    yield AttentionPlan(id="toy-full", variant="toy", rules=(linear,), expect_replaced=7)
    yield AttentionPlan(id="toy-narrow", variant="toy", rules=(narrow,), expect_replaced=7)
    yield AttentionPlan(id="toy-hybrid", variant="toy", rules=(keep_mid, linear), expect_replaced=6)
    yield AttentionPlan(id="toy-inner", variant="toy", rules=(keep_wide, linear), expect_replaced=4)
    yield AttentionPlan(id="toy-either-full", variant="toy-either", rules=(linear,), expect_replaced=7)
    yield AttentionPlan(id="toy-wide-full", variant="toy-wide", rules=(linear,), expect_replaced=7)
    yield AttentionPlan(id="toy-miscounted", variant="toy", rules=(linear,), expect_replaced=16)
    yield AttentionPlan(
        id="toy-gap",
        variant="toy",
        rules=(AttentionRule(match="down_blocks.*", mixer="softmax"),),
        expect_replaced=0,
    )
    yield AttentionPlan(
        id="toy-typo",
        variant="toy",
        rules=(AttentionRule(mixer="generalized-linear", options={"projection_mid_dims": 8}),),
        expect_replaced=7,
    )
    yield AttentionPlan(
        id="toy-odd",
        variant="toy",
        rules=(AttentionRule(mixer="generalized-linear", options={"projection_mid_divisor": 5}),),
        expect_replaced=7,
    )
    yield AttentionPlan(
        id="toy-own-mixer",
        variant="toy",
        rules=(
            AttentionRule(match="mid_block.*", mixer="toy-mixer", options={"rank": 3}),
            AttentionRule(mixer="softmax"),
        ),
        expect_replaced=1,
    )
    yield AttentionPlan(
        id="toy-nothing", variant="toy", rules=(AttentionRule(mixer="softmax"),), expect_replaced=0
    )


@hookimpl
def linzoo_mixers() -> Iterator[Mixer]:
    yield Mixer(
        id="toy-mixer",
        module=LazyRef("tests.init.toyzoo.own:ToyMixer"),
        tensors=LazyRef("tests.init.toyzoo.own:tensors"),
        options={"rank": 2, "scale": 1.5},
    )


@hookimpl
def linzoo_init_recipes() -> Iterator[InitRecipe]:
    for name in ("ones", "raises", "raises_late", "incomplete", "wrong_type", "wrong_shape"):
        yield InitRecipe(
            id=f"toy-{name.replace('_', '-')}",
            build=LazyRef(f"tests.init.toyzoo.own:{name}"),
            mixers=("toy-mixer",),
        )
