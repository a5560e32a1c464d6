"""Does the mounted checkpoint do what it should? A forward pass or two, whatever the quality."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from linzoo_kernels import use_backend
from torch import Tensor

from linzoo.attention.handle import Handle, read_linfusion
from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.batch import Batch, Draws
from linzoo.distillation.evaluation import row_sums_into
from linzoo.plugin import Measure
from linzoo.validation.batches import make_batches
from linzoo.validation.checks.faults import faults, worst_first
from linzoo.validation.subject import Subject

_CAPTIONS = ("", "a photo")
_TIMES = (0.2, 0.8)
"""Where between no noise and pure noise the UNet is asked; two rows each."""
_ROW_SUM_BAR = 0.05
_AGREEMENT = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Ten times and more what rounding makes of a whole UNet's output."""


def exercised(subject: Subject) -> Iterator[Measure]:
    """Whether every replaced module computes linear attention when the UNet is called, and its rows sum to one."""
    with subject.mounted() as handle:
        layers = handle.modules
        calls = dict.fromkeys(layers, 0)
        sums: dict[str, float] = {}
        with _counted(layers, calls), row_sums_into(sums, layers):
            output = _ask(subject, handle)
    idle = [name for name, count in calls.items() if not count]
    yield faults(
        "idle-modules",
        "Replaced modules that the UNet does not use",
        idle,
        f"{len(calls) - len(idle)} of {len(calls)} compute in every call of the UNet",
    )
    worst = worst_first(sums)
    broken = [name for name in worst if not math.isfinite(sums[name])]
    if not bool(torch.isfinite(output).all()) and not broken:
        broken = ["the UNet"]
    yield faults(
        "overflows",
        "Outputs that are not finite",
        broken,
        "finite weights, but a call of the UNet comes to NaN or infinity" if broken else "",
    )
    yield Measure(
        name="row-sums",
        title="Largest distance from 1 of a row's sum of attention weights",
        value=sums[worst[0]] if worst else 0.0,
        bar=_ROW_SUM_BAR,
        detail="a larger one means that eps drowns the features: they are too small, or another eps was trained with",
        culprits=tuple(name for name in worst if not sums[name] <= _ROW_SUM_BAR),
        data={
            "layers": {name: distance if math.isfinite(distance) else None for name, distance in sums.items()}
        },
    )


def backends(subject: Subject) -> Iterator[Measure]:
    """Whether the fast kernels come to what the reference comes to."""
    with subject.mounted() as handle:
        fast = _outputs(subject, handle)
        with use_backend("reference"):
            slow = _outputs(subject, handle)
    errors = {name: _relative(fast[name], slow[name]) for name in slow}
    worst = worst_first(errors)
    bar = _AGREEMENT[subject.pipe.unet.dtype]
    yield Measure(
        name="backends",
        title="Fast kernels against the reference, relative",
        value=errors[worst[0]],
        bar=bar,
        detail=f"root mean square of the difference over that of the output, in {subject.pipe.unet.dtype}".replace(
            "torch.", ""
        ),
        culprits=tuple(name for name in worst if not errors[name] <= bar),
    )


def round_trip(subject: Subject) -> Iterator[Measure]:
    """Whether what is saved is what was loaded, bit for bit."""
    before = subject.weights()
    with tempfile.TemporaryDirectory() as folder:
        before.save_pretrained(folder)
        after = read_linfusion(Path(folder), registry=subject.registry).state_dict()
    wrong = [name for name, tensor in before.state_dict().items() if not same_bits(tensor, after[name])]
    yield faults("round-trip", "Tensors that change when they are saved and loaded", wrong)


@contextmanager
def _counted(layers: Mapping[str, MountedAttention], calls: dict[str, int]) -> Iterator[None]:
    """Count how often each layer computes linear attention: a layer that is called may still compute softmax."""

    def mix(name: str, layer: MountedAttention, *args: Any) -> Tensor:
        calls[name] += 1
        return type(layer).mix_and_project(layer, *args)

    for name, layer in layers.items():
        layer.__dict__["mix_and_project"] = partial(mix, name, layer)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.__dict__["mix_and_project"]


def _outputs(subject: Subject, handle: Handle) -> dict[str, Tensor]:
    """What each layer, and the UNet (as ``unet``), comes to."""
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(partial(_keep, found, name)) for name, layer in handle.modules.items()
    ]
    try:
        output = _ask(subject, handle)
    finally:
        for hook in hooks:
            hook.remove()
    return {**found, "the UNet": output}


def _keep(found: dict[str, Tensor], name: str, *call: Any) -> None:
    found[name] = call[-1].detach()


@torch.no_grad()
def _ask(subject: Subject, handle: Handle) -> Tensor:
    """Call the UNet on noise, at :data:`_TIMES`."""
    unet, dtype = handle.unet, subject.pipe.unet.dtype
    batch = _probe(subject)
    times = torch.tensor([share * subject.noise.steps for share in _TIMES for _ in _CAPTIONS]).long()
    latents = torch.cat([batch.latents] * len(_TIMES)).to(dtype)
    conditioning = batch.conditioning
    for _ in _TIMES[1:]:
        conditioning = conditioning.cat(batch.conditioning)
    outputs = unet(latents, times.to(latents.device), **conditioning.to(dtype).kwargs(), return_dict=False)
    output: Tensor = outputs[0]
    return output


def _probe(subject: Subject) -> Batch:
    """A caption and none, with noise in the place of latents, at the size that is validated."""
    width, height = subject.size
    factor = subject.pipe.vae_scale_factor
    shape = (subject.pipe.unet.config.in_channels, height // factor, width // factor)
    noise = Draws(subject.seed, "validation", 0, range(len(_CAPTIONS))).normal("probe", shape)
    return make_batches(subject.pipe, noise, _CAPTIONS, len(_CAPTIONS), subject.device)[0]


def _relative(one: Tensor, other: Tensor) -> float:
    difference, size = (one - other).double().square().mean(), other.double().square().mean()
    return float((difference / size.clamp(min=1e-30)).sqrt())


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same to the last bit; NaN equals NaN."""
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and one.contiguous().view(torch.uint8).equal(other.contiguous().view(torch.uint8))
