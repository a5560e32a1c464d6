"""The same prompts and noise drawn by both: how alike are the pictures?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from linzoo.plugin import Measure, PicturePair
from linzoo.validation.drawings import BOTH
from linzoo.validation.subject import Subject

_SHOWN = 64
"""Pairs of pictures in the report, whose own figures stand beside them."""


def pictures(subject: Subject) -> Iterator[Measure]:
    """Cosine of the latents, PSNR and SSIM of the pictures, LPIPS where its network is to be had; means over pairs."""
    teacher, student = (subject.drawings(who) for who in BOTH)
    ratios, similarities = subject.pairs.read("psnr"), subject.pairs.read("ssim")
    cosines = subject.pairs.read("cosine")
    yield _measure("latent-cosine", "Cosine of the latents", cosines, "higher")
    yield Measure(
        name="psnr",
        title="PSNR to the teacher's pictures",
        value=float(ratios.mean()),
        unit="dB",
        better="higher",
        detail=_spread(ratios, teacher.prompts, "higher"),
        pictures=tuple(
            PicturePair(
                title=prompt,
                detail=f"seed {subject.seed + index}, {float(ratios[index]):.1f} dB, SSIM {float(similarities[index]):.2f}",
                teacher=teacher.picture(index),
                student=student.picture(index),
            )
            for index, prompt in enumerate(teacher.prompts[:_SHOWN])
        ),
    )
    yield _measure("ssim", "SSIM to the teacher's pictures", similarities, "higher")
    distances = subject.sights.distances()
    if distances is None:
        yield Measure(
            name="lpips",
            title="LPIPS to the teacher's pictures",
            value=None,
            skipped=subject.sights.why("distance"),
        )
    else:
        yield _measure("lpips", "LPIPS to the teacher's pictures", distances, "lower")


def _measure(name: str, title: str, values: Tensor, better: str) -> Measure:
    return Measure(
        name=name,
        title=title,
        value=float(values.mean()),
        better="higher" if better == "higher" else "lower",
        detail=_spread(values),
    )


def _spread(values: Tensor, prompts: Sequence[str] = (), better: str = "") -> str:
    text = f"{len(values)} pictures, from {float(values.min()):.3g} to {float(values.max()):.3g}"
    if not prompts:
        return text
    worst = values.argmin() if better == "higher" else values.argmax()
    return f"{text}; least alike: {prompts[int(worst)]}"
