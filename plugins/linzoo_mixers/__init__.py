"""The built-in mixers and init recipes."""

from __future__ import annotations

from collections.abc import Iterator

from linzoo.plugin import InitRecipe, LazyRef, Mixer, hookimpl


@hookimpl
def linzoo_mixers() -> Iterator[Mixer]:
    """``softmax`` keeps the teacher's own attention; ``generalized-linear`` is LinFusion's (arXiv 2409.02097)."""
    yield Mixer(
        id="softmax", summary="The teacher's own attention, kept as it is.", module=None, tensors=None
    )
    yield Mixer(
        id="generalized-linear",
        summary="LinFusion's normalised, non-causal linear attention.",
        module=LazyRef("linzoo.attention.generalized_linear:GeneralizedLinearAttention"),
        tensors=LazyRef("linzoo.attention.layout:generalized_linear_tensors"),
        options={"projection_mid_dim": None, "projection_mid_divisor": None},
    )


@hookimpl
def linzoo_init_recipes() -> Iterator[InitRecipe]:
    """The ways to start a generalized linear attention."""
    yield InitRecipe(
        id="random",
        summary="Fresh random weights, as the published training script starts.",
        build=LazyRef("linzoo.init.random:build"),
    )
    yield InitRecipe(
        id="teacher",
        summary="The teacher's q, k, v and out bit for bit; the new branch ends in zeros.",
        build=LazyRef("linzoo.init.teacher:build"),
    )
    yield InitRecipe(
        id="calibrated",
        summary="The teacher's weights, sharpened and fitted to samples that it draws itself; no training.",
        build=LazyRef("linzoo.distillation.calibrated:build"),
        needs=("teacher", "pipeline"),
    )
    yield InitRecipe(
        id="pretrained",
        summary="Published LinFusion weights as they are.",
        build=LazyRef("linzoo.init.pretrained:build"),
        needs=("linfusion",),
    )
    yield InitRecipe(
        id="delta",
        summary="Published LinFusion weights plus what the fine-tune changed in its base model.",
        build=LazyRef("linzoo.init.delta:build"),
        needs=("teacher", "linfusion", "base"),
    )
