"""How far a student is from its teacher, on held-out samples with noise and timesteps that are always the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from linzoo_kernels.torch_ops import without_autocast
from torch import Tensor, nn
from torch.func import functional_call

from linzoo.attention.mounted import MountedAttention
from linzoo.distillation.batch import Batch, Conditioning, Draws
from linzoo.distillation.noise import Noise
from linzoo.distillation.objective import guide, mean_square, relative_error
from linzoo.distillation.student import Student

DECILES = 10


@dataclass(frozen=True)
class Evaluation:
    """What was measured; every figure is a mean over the samples unless it says otherwise.

    Attributes:
        kd: mean square of the difference of the outputs, conditional ones.
        deciles: the same by tenth of the timesteps, from the least noise to the most; None where no sample falls.
        guided: by guidance scale s, mean square of the difference of the guided outputs. It is as it is, not over
            1 + s^2 as in the guided loss: it tells what a sampler at that scale meets.
        features: by layer, mean square of the difference of the attention's outputs by that of the teacher's, each in
            its own forward pass: errors of earlier layers count.
        row_sum_error: largest distance from 1 of a sum of attention weights over the keys, over all rows of all
            layers. The eps in the denominator z + eps alone makes it eps / (z + eps): a large figure means features
            so small that eps drowns them.
    """

    kd: float
    deciles: tuple[float | None, ...]
    guided: Mapping[float, float]
    features: Mapping[str, float]
    row_sum_error: float


@dataclass(frozen=True)
class _Sample:
    """A micro-batch with its noise."""

    noisy: Tensor
    timesteps: Tensor
    conditioning: Conditioning
    unconditional: Conditioning


class Evaluator:
    """Measures a student against its teacher; the same figures for the same weights.

    The teacher's outputs are computed once and kept in host memory.

    Args:
        student: may change between measurements; its teacher may not.
        noise: the diffusion process.
        batches: held-out samples on the student's device, as many at once as its memory allows.
        scales: guidance scales to measure at.
        seed: of noise and timesteps.

    Attributes:
        noise: as it was given.
    """

    def __init__(
        self,
        student: Student,
        noise: Noise,
        batches: Iterable[Batch],
        scales: Sequence[float] = (1.0, 4.0, 7.5),
        seed: int = 0,
    ) -> None:
        self.noise = noise
        self._student = student
        self._scales = tuple(scales)
        self._samples = _with_noise(tuple(batches), noise, seed)
        with student.teacher():
            self._targets = self._predict("conditioning")
        self._unconditional: list[Tensor] | None = None
        """The teacher's outputs without a caption; computed when first needed, since KD alone does without."""

    def kd(self) -> float:
        """Mean square of the difference of the outputs; a forward pass a sample, and nothing else."""
        return _mean(self._kd_by_sample(self._predict("conditioning")))

    def evaluate(self) -> Evaluation:
        """Measure everything."""
        features: dict[str, list[Tensor]] = {name: [] for name in self._student.layers}
        row_sums: dict[str, float] = {}
        outputs = []
        for sample in self._samples:
            with torch.no_grad():
                with self._student.teacher(), self._student.features() as wanted:
                    self._student.predict(sample.noisy, sample.timesteps, sample.conditioning)
                with self._student.features() as found, row_sums_into(row_sums, self._student.layers):
                    output = self._student.predict(sample.noisy, sample.timesteps, sample.conditioning)
            outputs.append(output.cpu())
            for name, errors in features.items():
                errors.append(relative_error(found[name], wanted[name]).cpu())
        by_sample = self._kd_by_sample(outputs)
        return Evaluation(
            kd=_mean(by_sample),
            deciles=self._by_decile(by_sample),
            guided=self._guided(outputs),
            features={name: _mean(torch.cat(errors)) for name, errors in features.items()},
            row_sum_error=max(row_sums.values()),
        )

    def _predict(self, conditioning: str) -> list[Tensor]:
        with torch.no_grad():
            return [
                self._student.predict(sample.noisy, sample.timesteps, getattr(sample, conditioning)).cpu()
                for sample in self._samples
            ]

    def _kd_by_sample(self, outputs: Sequence[Tensor]) -> Tensor:
        pairs = zip(outputs, self._targets, strict=True)
        return torch.cat([mean_square(output - target) for output, target in pairs])

    def _by_decile(self, by_sample: Tensor) -> tuple[float | None, ...]:
        timesteps = torch.cat([sample.timesteps.cpu() for sample in self._samples])
        decile = timesteps * DECILES // self.noise.steps
        inside = [by_sample[decile == each] for each in range(DECILES)]
        return tuple(_mean(each) if len(each) else None for each in inside)

    def _guided(self, outputs: Sequence[Tensor]) -> dict[float, float]:
        if self._unconditional is None:
            with self._student.teacher():
                self._unconditional = self._predict("unconditional")
        differences = [
            torch.cat([output - target, without - without_target])
            for output, target, without, without_target in zip(
                outputs, self._targets, self._predict("unconditional"), self._unconditional, strict=True
            )
        ]
        return {
            scale: _mean(torch.cat([mean_square(guide(each, scale)) for each in differences]))
            for scale in self._scales
        }


def _with_noise(batches: Sequence[Batch], noise: Noise, seed: int) -> list[_Sample]:
    """Noise all samples, at timesteps that are spread evenly over the whole range in an order without a pattern."""
    count = sum(map(len, batches))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    timesteps = ((order + 0.5) / count * noise.steps).long()
    samples = []
    first = 0
    for batch in batches:
        slots = range(first, first + len(batch))
        first += len(batch)
        latents = batch.latents
        drawn = Draws(seed, "evaluation", 0, slots).normal("noise", latents.shape[1:]).to(latents)
        times = timesteps[list(slots)].to(latents.device)
        noisy = noise.add(latents, drawn, times)
        samples.append(_Sample(noisy, times, batch.conditioning, batch.unconditional))
    return samples


@contextmanager
def row_sums_into(worst: dict[str, float], layers: Mapping[str, MountedAttention]) -> Iterator[None]:
    """Note how far the rows' sums of each linear attention are from 1, by layer, in the forward passes in the block.

    Args:
        worst: the largest distance so far of each layer; it is brought up to date.
        layers: the mounted layers by name.
    """
    hooks = [layer.register_forward_hook(partial(_row_sum, worst, name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _row_sum(
    worst: dict[str, float], name: str, layer: MountedAttention, inputs: tuple[Any, ...], _: Tensor
) -> None:
    """A forward hook: attention over values of one gives the sums of its weights; not rounded to half precision."""
    mix = _Mix(layer)
    hook = layer.to_v.register_forward_hook(_ones)
    try:
        with without_autocast(inputs[0].device.type):
            tensors = {**dict(mix.named_parameters()), **dict(mix.named_buffers())}
            weights = {place: _at_least_float32(value) for place, value in tensors.items()}
            sums: Tensor = functional_call(mix, weights, (_at_least_float32(inputs[0]),))
    finally:
        hook.remove()
    distance = float((sums - 1).abs().max())
    if not distance <= worst.get(name, 0.0):  # a distance that is not a number is the worst, and stays
        worst[name] = distance if not math.isnan(worst.get(name, 0.0)) else math.nan


class _Mix(nn.Module):
    """What a layer mixes, as a module of its own: it can be called with weights of another precision."""

    def __init__(self, layer: MountedAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.layer.mix(x, None)
        return mixed


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.is_floating_point() else x


def _ones(_: nn.Module, __: tuple[Any, ...], values: Tensor) -> Tensor:
    return torch.ones_like(values)


def _mean(values: Tensor) -> float:
    return math.fsum(values.tolist()) / len(values)
