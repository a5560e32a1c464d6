"""mini: a small, really trained text-to-image model of emoji that ships with linzoo; what demo and tests run on."""

from __future__ import annotations

from collections.abc import Iterator

from linzoo.plugin import (
    AttentionPlan,
    AttentionRule,
    DistillRecipe,
    Encoder,
    Fingerprint,
    LazyRef,
    Resource,
    Variant,
    hookimpl,
)

_TEACHER = Resource("linzoo_mini", "weights/teacher")
_BARS = {
    "kd": 0.012,
    "guided-kd": 0.06,
    "attention-error": 0.12,
    "latent-cosine": 0.95,
    "psnr": 24.0,
    "ssim": 0.88,
    "clip-score-change": -1.5,
}
"""What mini-linfusion reaches with room to spare (0.0068, 0.031, 0.038, 0.982, 28.2 dB, 0.937 and -0.2 on the 32 prompts that
its distillation kept aside), and what neither undistilled weights nor a layer that was spoiled do."""


@hookimpl
def linzoo_variants() -> Iterator[Variant]:
    """Stable Diffusion 1's wiring with three levels, at 128 px."""
    yield Variant(
        id="mini",
        summary="mini: emoji at 128 px, shipped with linzoo",
        fingerprint=Fingerprint(
            channels=32,
            in_channels=4,
            context_dim=128,
            linear_projection=False,
            depth=(1, 1, 1),
            mid_depth=1,
        ),
        components=_TEACHER,
        native_size={"epsilon": 128},
        prediction_types=("epsilon",),
        local_teachers={
            "mini": _TEACHER,
            "mini-v1": Resource("linzoo_mini", "weights/mini-v1.safetensors"),
            "mini-3d": Resource("linzoo_mini", "weights/mini-3d.safetensors"),
        },
        local_linfusion={"mini-linfusion": Resource("linzoo_mini", "weights/linfusion")},
        default_plan="mini-full",
        default_distill="mini",
        license="apache-2.0",
        bars=_BARS,
        tiny={
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("CrossAttnDownBlock2D",) * 3,
            "up_block_types": ("CrossAttnUpBlock2D",) * 3,
            "layers_per_block": 1,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
            "norm_num_groups": 4,
            "sample_size": 8,
        },
    )


@hookimpl
def linzoo_attention_plans() -> Iterator[AttentionPlan]:
    """All ten self-attentions, or only those at 16x16 and 8x8."""
    yield AttentionPlan(
        id="mini-full",
        summary="Every self-attention becomes linear.",
        variant="mini",
        rules=(AttentionRule(mixer="generalized-linear"),),
        expect_replaced=10,
    )
    yield AttentionPlan(
        id="mini-keep-small",
        summary="Softmax stays in the smallest level (16 tokens at 128 px).",
        variant="mini",
        rules=(AttentionRule(channels=88, mixer="softmax"), AttentionRule(mixer="generalized-linear")),
        expect_replaced=6,
    )


@hookimpl
def linzoo_distill_recipes() -> Iterator[DistillRecipe]:
    """Ours, and the published hyper-parameters to compare with."""
    yield DistillRecipe(
        id="mini",
        summary="Calibrate, align, distil on a CPU in minutes.",
        variant="mini",
        document=Resource("linzoo_recipes", "mini/mini.yaml"),
    )
    yield DistillRecipe(
        id="official-mini",
        summary="The published losses and schedule from a random start; for comparison.",
        variant="mini",
        document=Resource("linzoo_recipes", "mini/official-mini.yaml"),
    )


@hookimpl
def linzoo_encoders() -> Iterator[Encoder]:
    """A small CLIP that was trained on the same emoji and captions."""
    yield Encoder(
        id="mini-clip",
        summary="mini's own CLIP, of emoji; ships with linzoo.",
        kind="image-text",
        build=LazyRef("linzoo.validation.encoders.clip:mini_clip"),
        license="apache-2.0",
        variants=("mini",),
    )
