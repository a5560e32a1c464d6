"""Stable Diffusion XL base and its fine-tunes: text to image, inpainting, InstructPix2Pix, and their plans."""

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

_SMALL = ("mid_block.*", "down_blocks.2.*", "up_blocks.0.*")
"""Where a UNet has the fewest tokens."""

_FINGERPRINT = Fingerprint(
    channels=320,
    in_channels=4,
    context_dim=2048,
    linear_projection=True,
    depth=(0, 0, 2, 2, 10, 10),
    mid_depth=10,
    vector_dim=2816,
)

_SDXL = Variant(
    id="sdxl",
    summary="Stable Diffusion XL",
    fingerprint=_FINGERPRINT,
    components=Resource("linzoo_sdxl", "components"),
    native_size={"epsilon": 1024},
    prediction_types=("epsilon",),
    conditioning="text+pooled+time_ids",
    teachers=("stabilityai/stable-diffusion-xl-base-1.0",),
    linfusion={"stabilityai/stable-diffusion-xl-base-1.0": "Yuanshi/LinFusion-XL"},
    default_plan="sdxl-full",
    default_distill="sdxl",
    license="openrail++",
    tiny={
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (2, 4, 4),
        "cross_attention_dim": 64,
        "norm_num_groups": 8,
        "sample_size": 16,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    },
)


def _special(id: str, summary: str, channels: int, size: int, pipeline: str, teacher: str) -> Variant:
    """A variant that differs from ``sdxl`` in what its first convolution reads."""
    return replace(
        _SDXL,
        id=id,
        summary=summary,
        fingerprint=replace(_FINGERPRINT, in_channels=channels),
        refines="sdxl",
        default_distill=None,  # the recipes train on latents alone, and have no second picture
        component_overrides={"unet": {"in_channels": channels}, "model_index": {"_class_name": pipeline}},
        native_size={"epsilon": size},
        teachers=(teacher,),
        linfusion={},
        tiny={**_SDXL.tiny, "in_channels": channels},
    )


@hookimpl
def linzoo_variants() -> Iterator[Variant]:
    """The three published structures."""
    yield _SDXL
    yield _special(
        "sdxl-inpaint",
        "Stable Diffusion XL inpainting",
        9,
        1024,
        "StableDiffusionXLInpaintPipeline",
        "diffusers/stable-diffusion-xl-1.0-inpainting-0.1",
    )
    yield _special(
        "sdxl-instruct-pix2pix",
        "InstructPix2Pix on Stable Diffusion XL",
        8,
        768,
        "StableDiffusionXLInstructPix2PixPipeline",
        "diffusers/sdxl-instructpix2pix-768",
    )


@hookimpl
def linzoo_attention_plans() -> Iterator[AttentionPlan]:
    """All 70 self-attentions, with the narrow branch of the published weights, or only the ten of the large level."""
    narrow = {"projection_mid_divisor": 16}
    yield AttentionPlan(
        id="sdxl-full",
        summary="Every self-attention becomes linear, with branches of C/16 as published.",
        variant="sdxl",
        rules=(AttentionRule(mixer="generalized-linear", options=narrow),),
        expect_replaced=70,
    )
    yield AttentionPlan(
        id="sdxl-keep-small",
        summary="Softmax stays in the smaller level (1024 tokens for 1024 px), which has 60 of the 70.",
        variant="sdxl",
        rules=(
            *(AttentionRule(match=block, mixer="softmax") for block in _SMALL),
            AttentionRule(mixer="generalized-linear", options=narrow),
        ),
        expect_replaced=10,
    )


@hookimpl
def linzoo_distill_recipes() -> Iterator[DistillRecipe]:
    """Ours, and the published hyper-parameters to compare with."""
    yield DistillRecipe(
        id="sdxl",
        summary="Calibrate, align, distil on what the teacher draws itself.",
        variant="sdxl",
        document=Resource("linzoo_recipes", "sdxl/sdxl.yaml"),
    )
    yield DistillRecipe(
        id="official-sdxl",
        summary="The published hyper-parameters from a random start; for comparison.",
        variant="sdxl",
        document=Resource("linzoo_recipes", "sdxl/official-sdxl.yaml"),
    )
