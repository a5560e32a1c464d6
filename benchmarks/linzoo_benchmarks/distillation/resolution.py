"""Attention over more tokens than it was made for: with and without normalisation.

The paper's argument (LinFusion, arXiv 2409.02097): what all tokens together contribute to one must not depend on how many
they are, else a layer that was made at one resolution errs at another. Three mixers with the same features φ(q), φ(k) of
the teacher's own q, k and v, elu + 1, differ in what the sum over tokens is divided by:

* ``normalised``: by φ(q) · Σ φ(k), LinFusion's;
* ``mean``: by the number of tokens;
* ``sum``: by the number of tokens that the layer was fitted at, a constant, as in a mixer that does not normalise.

Each is fitted to every layer of the teacher at its own resolution, by the sharpness of q and k and by ridge regression of
``to_out``, and then asked for the teacher's attention over as many tokens, twice and four times as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from linzoo_benchmarks.csvfile import CsvFile
from linzoo_benchmarks.distillation.models import draw_latents, encode, open_pipeline, prompts
from linzoo_benchmarks.distillation.rows import RESOLUTION, ResolutionRow, origin

SEEDS = (0, 1, 2)
SIZES = {1: (128, 128), 2: (256, 128), 4: (256, 256)}
"""Pixels, by how many times the teacher's own tokens they are."""
SHARPNESS = (1.0, 2.0, 4.0, 8.0)
RIDGE = 1e-3
"""Times the mean of the diagonal: enough for a stable solution, little enough not to matter."""
EPS = 1e-4


@dataclass(frozen=True)
class Sample:
    """What an attention was given and what it answered, (B, N, C) both."""

    x: Tensor
    y: Tensor


Divide = Callable[[Tensor, Tensor, int], Tensor]


def _by_keys(q: Tensor, k: Tensor, fitted: int) -> Tensor:  # noqa: ARG001
    return q @ k.sum(-2, keepdim=True).transpose(-2, -1) + EPS * k.shape[-2]


def _by_tokens(q: Tensor, k: Tensor, fitted: int) -> Tensor:  # noqa: ARG001
    return q.new_tensor(k.shape[-2])


def _by_constant(q: Tensor, k: Tensor, fitted: int) -> Tensor:  # noqa: ARG001
    return q.new_tensor(fitted)


MIXERS: Mapping[str, Divide] = {"normalised": _by_keys, "mean": _by_tokens, "sum": _by_constant}


@dataclass(frozen=True)
class Fitted:
    """A mixer in the place of one of the teacher's attentions."""

    attention: Any
    divide: Divide
    tokens: int
    sharpness: float
    out: Tensor

    @staticmethod
    def to(attention: Any, divide: Divide, sample: Sample) -> Fitted:
        """The sharpness whose regression leaves the smallest error on the sample."""
        fits = []
        for sharpness in SHARPNESS:
            blank = Fitted(attention, divide, sample.x.shape[1], sharpness, torch.empty(0))
            fit = Fitted(attention, divide, blank.tokens, sharpness, _ridge(blank.mix(sample.x), sample.y))
            fits.append((fit.error(sample), sharpness, fit))
        return min(fits)[-1]

    def mix(self, x: Tensor) -> Tensor:
        """Up to but without ``to_out``, with a column of ones for its bias: (B, N, C + 1)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.attention.heads, -1)).transpose(1, 2)
            for layer in (self.attention.to_q, self.attention.to_k, self.attention.to_v)
        )
        q, k = F.elu(self.sharpness * q) + 1, F.elu(self.sharpness * k) + 1
        mixed = q @ (k.transpose(-2, -1) @ v) / self.divide(q, k, self.tokens)
        joined = mixed.transpose(1, 2).flatten(2)
        return torch.cat([joined, torch.ones_like(joined[..., :1])], -1)

    def error(self, sample: Sample) -> float:
        """Squared error over the square of the teacher's output."""
        wrong = self.mix(sample.x) @ self.out - sample.y
        return float(wrong.square().mean() / sample.y.square().mean())


def _ridge(mixed: Tensor, y: Tensor) -> Tensor:
    inputs, targets = mixed.flatten(0, 1).double(), y.flatten(0, 1).double()
    gram = inputs.T @ inputs
    strength = RIDGE * gram.diagonal().mean()
    identity = torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram + strength * identity, inputs.T @ targets)
    return solution.float()


def capture(pipe: Any, latents: Tensor, text: Tensor, seed: int) -> dict[str, Sample]:
    """What the teacher's self-attentions see and answer on the latents under noise of any strength."""
    found: dict[str, Sample] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            found[name] = Sample(arguments[0], output)

        return hook

    generator = torch.Generator().manual_seed(seed)
    timesteps = torch.linspace(1, pipe.scheduler.config.num_train_timesteps - 1, len(latents)).long()
    noise = torch.randn(latents.shape, generator=generator)
    layers = {name: module for name, module in pipe.unet.named_modules() if name.endswith("attn1")}
    handles = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    pipe.unet(pipe.scheduler.add_noise(latents, noise, timesteps), timesteps, encoder_hidden_states=text)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def measure(pipe: Any, seed: int, factors: Sequence[int] = tuple(SIZES)) -> list[tuple[str, int, int, float]]:
    """Mixer, factor, tokens of the first level and mean error over layers, for one seed of latents and noise."""
    texts = prompts()
    text = encode(pipe, texts)
    fitting = capture(pipe, draw_latents(pipe, texts, SIZES[1], 100 + seed), text, 100 + seed)
    layers = {name: pipe.unet.get_submodule(name) for name in fitting}
    fitted = {
        mixer: {name: Fitted.to(layer, divide, fitting[name]) for name, layer in layers.items()}
        for mixer, divide in MIXERS.items()
    }
    found = []
    for factor in factors:
        seen = capture(pipe, draw_latents(pipe, texts, SIZES[factor], seed), text, seed)
        tokens = max(sample.x.shape[1] for sample in seen.values())
        for mixer, fits in fitted.items():
            errors = [fit.error(seen[name]) for name, fit in fits.items()]
            found.append((mixer, factor, tokens, sum(errors) / len(errors)))
    return found


def run(out: Path, say: Callable[[str], None], *, source: str = "mini") -> list[ResolutionRow]:
    """Measure all seeds that ``out`` has no rows of; returns all rows of the file.

    Raises:
        BenchmarkError: ``out`` holds something else.
    """
    file = CsvFile(out, RESOLUTION)
    missing = [seed for seed in SEEDS if seed not in {row.seed for row in file.rows()}]
    pipe = open_pipeline(source) if missing else None
    for seed in missing:
        found = measure(pipe, seed)
        base = {mixer: error for mixer, factor, _, error in found if factor == 1}
        for mixer, factor, tokens, error in found:
            row = ResolutionRow(
                mixer=mixer, seed=seed, factor=factor, tokens=tokens, error=error, growth=error / base[mixer],
                **origin(),
            )  # fmt: skip
            file.append(row)
            say(
                f"resolution, seed {seed}: {mixer} over {factor}x tokens: error {error:.3f}, {row.growth:.2f}x"
            )
    return file.rows()
