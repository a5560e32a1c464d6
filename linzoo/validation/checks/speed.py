"""How long teacher and student take, and how much memory, over sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from linzoo_benchmarks.timing import Task

from linzoo.distillation.batch import Conditioning, Draws
from linzoo.generate.compare import Settings as DrawSettings
from linzoo.generate.compare import draw
from linzoo.plugin import Measure
from linzoo.validation.batches import make_batches
from linzoo.validation.contenders import Contenders
from linzoo.validation.contest import CALL, area, measures, shown
from linzoo.validation.subject import Subject, scaled_size
from linzoo.validation.sweep import Row, Size, Stopwatch, Sweep

STEPS = 4
"""Denoising steps of a timed picture at most: enough that it is one, few enough for the largest sizes."""

_PROMPT = "a photo"

_clock = Stopwatch()


def run(subject: Subject, stopwatch: Stopwatch = _clock) -> Iterator[Measure]:
    """Latency and peak memory of a UNet call and of a picture: teacher (SDPA), student and folded student in turn.

    A call has two rows, as guidance asks for them. Sizes are ``subject.settings.speed_sizes`` times ``subject.size``.
    """
    steps = min(STEPS, subject.settings.steps)
    with torch.no_grad(), subject.mounted() as handle, Contenders(handle) as contenders:
        rows = _sweep(subject, contenders, steps, stopwatch)
    yield from measures(rows, subject.size)


def _sweep(subject: Subject, contenders: Contenders, steps: int, stopwatch: Stopwatch) -> list[Row]:
    device = torch.device(subject.device)
    weights = {who: contenders.weights(who) for who in contenders.names}
    sizes = sizes_of(subject.size, subject.settings.speed_sizes)
    calls = Sweep(CALL, device, weights, stopwatch)
    pictures = Sweep(f"picture in {steps} step{'s' if steps > 1 else ''}", device, weights, stopwatch)
    share = contenders.tokens(_call(subject, sizes[0])) / area(sizes[0])
    with subject.progress.task("timing UNet calls and pictures", 2 * len(sizes)) as told:
        for size in sizes:
            tokens = round(share * area(size))
            always = size == sizes[0] or area(size) <= area(subject.size)
            calls.measure(size, tokens, _tasks(contenders, _call(subject, size)), always=always)
            told(1, {"size": shown(size)})
            drawing = partial(
                draw, subject.pipe, [_PROMPT], DrawSettings(size=size, steps=steps, seed=subject.seed)
            )
            at_least = {who: steps * ms for who, ms in calls.ms(size).items()}
            pictures.measure(
                size, tokens, _tasks(contenders, drawing), at_least=at_least, out=calls.notes(size)
            )
            told(1, {"size": shown(size)})
    return [*calls.rows, *pictures.rows]


def sizes_of(native: Size, factors: Sequence[float]) -> list[Size]:
    """Width and height in pixels for each factor of the sides, the smallest first."""
    sizes = {native if factor == 1 else scaled_size(native, factor) for factor in factors}
    return sorted(sizes, key=area)


def _tasks(contenders: Contenders, work: Callable[[], Any]) -> dict[str, Task]:
    return {who: Task(lambda _: work(), partial(contenders.use, who)) for who in contenders.names}


def _call(subject: Subject, size: Size) -> Callable[[], Any]:
    """A call of the UNet on noise, two rows: the prompt's and the empty one's, as in guided drawing."""
    pipe, (width, height) = subject.pipe, size
    shape = (pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    noise = Draws(subject.seed, "validation", 0, range(1)).normal("speed", shape)
    batch = make_batches(pipe, noise, [_PROMPT], 1, subject.device)[0]
    latents = torch.cat([batch.latents] * 2).to(pipe.unet.dtype)
    both: Conditioning = batch.unconditional.cat(batch.conditioning)
    time = torch.tensor(pipe.scheduler.config.num_train_timesteps // 2, device=latents.device)
    told = both.to(pipe.unet.dtype).kwargs()
    return partial(pipe.unet, latents, time, return_dict=False, **told)
