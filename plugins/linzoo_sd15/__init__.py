"""Stable Diffusion 1.x: text to image, inpainting, InstructPix2Pix, and the attention plans of all three."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
    context_dim=768,
    linear_projection=False,
    depth=(1, 1, 1, 1, 1, 1, 0, 0),
    mid_depth=1,
)

_SD15 = Variant(
    id="sd15",
    summary="Stable Diffusion 1.x",
    fingerprint=_FINGERPRINT,
    components=Resource("linzoo_sd15", "components"),
    native_size={"epsilon": 512},
    prediction_types=("epsilon",),
    teachers=(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "runwayml/stable-diffusion-v1-5",
        "Lykon/dreamshaper-8",
        "SG161222/Realistic_Vision_V4.0_noVAE",
    ),
    linfusion={"runwayml/stable-diffusion-v1-5": "Yuanshi/LinFusion-1-5"},
    default_plan="sd15-full",
    default_distill="sd15",
    license="creativeml-openrail-m",
    tiny={
        "block_out_channels": (32, 64, 64, 64),
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "layers_per_block": 2,
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "sample_size": 16,
    },
)


def _special(
    id: str, summary: str, channels: int, pipeline: str, teachers: tuple[str, ...], linfusion: dict[str, str]
) -> Variant:
    """A variant that differs from ``sd15`` in what its first convolution reads."""
    return replace(
        _SD15,
        id=id,
        summary=summary,
        fingerprint=replace(_FINGERPRINT, in_channels=channels),
        refines="sd15",
        default_distill=None,  # the recipes train on latents alone, and have no second picture
        component_overrides={"unet": {"in_channels": channels}, "model_index": {"_class_name": pipeline}},
        teachers=teachers,
        linfusion=linfusion,
        tiny={**_SD15.tiny, "in_channels": channels},
    )


@hookimpl
def linzoo_variants() -> Iterator[Variant]:
    """The three published structures."""
    yield _SD15
    yield _special(
        "sd15-inpaint",
        "Stable Diffusion 1.x inpainting",
        9,
        "StableDiffusionInpaintPipeline",
        ("stable-diffusion-v1-5/stable-diffusion-inpainting", "runwayml/stable-diffusion-inpainting"),
        {},
    )
    yield _special(
        "sd15-instruct-pix2pix",
        "InstructPix2Pix on Stable Diffusion 1.x",
        8,
        "StableDiffusionInstructPix2PixPipeline",
        ("timbrooks/instruct-pix2pix",),
        {},
    )


@hookimpl
def linzoo_attention_plans() -> Iterator[AttentionPlan]:
    """All 16 self-attentions, or only the ten that see many tokens."""
    yield AttentionPlan(
        id="sd15-full",
        summary="Every self-attention becomes linear, as published.",
        variant="sd15",
        rules=(AttentionRule(mixer="generalized-linear"),),
        expect_replaced=16,
    )
    yield AttentionPlan(
        id="sd15-keep-small",
        summary="Softmax stays in the two smallest levels (at most 256 tokens for 512 px).",
        variant="sd15",
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
        id="sd15",
        summary="Calibrate, align, distil on what the teacher draws itself.",
        variant="sd15",
        document=Resource("linzoo_recipes", "sd15/sd15.yaml"),
    )
    yield DistillRecipe(
        id="official-sd15",
        summary="The published hyper-parameters from a random start; for comparison.",
        variant="sd15",
        document=Resource("linzoo_recipes", "sd15/official-sd15.yaml"),
    )
