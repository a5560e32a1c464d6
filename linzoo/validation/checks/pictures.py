"""The same prompts and noise drawn by both: how alike are the pictures?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from linzoo.plugin import Measure, PicturePair
from linzoo.validation.metrics.latents import cosine
from linzoo.validation.metrics.pictures import psnr, ssim
from linzoo.validation.subject import Subject

_SHOWN = 64
"""Pairs of pictures in the report."""


def pictures(subject: Subject) -> Iterator[Measure]:
    """Cosine of the latents, PSNR and SSIM of the pictures, LPIPS where its network is to be had; means over pairs."""
    teacher, student = subject.drawings("teacher"), subject.drawings("student")
    cosines = cosine(student.latents(), teacher.latents())
    found: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
    count, at_once = len(teacher.prompts), subject.settings.batch
    with subject.progress.task("comparing pictures", count) as told:
        for start in range(0, count, at_once):
            items = range(start, min(start + at_once, count))
            ones, others = student.pixels(items), teacher.pixels(items)
            found["psnr"].append(psnr(ones, others))
            found["ssim"].append(ssim(ones, others))
            told(len(items), {})
    ratios, similarities = torch.cat(found["psnr"]), torch.cat(found["ssim"])
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
        data={"by_picture": ratios.tolist()},
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
        data={"by_picture": values.tolist()},
    )


def _spread(values: Tensor, prompts: Sequence[str] = (), better: str = "") -> str:
    text = f"{len(values)} pictures, from {float(values.min()):.3g} to {float(values.max()):.3g}"
    if not prompts:
        return text
    worst = values.argmin() if better == "higher" else values.argmax()
    return f"{text}; least alike: {prompts[int(worst)]}"
