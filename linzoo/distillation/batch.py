"""What one step trains on, and the random numbers that it draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What a UNet is told besides latents and timesteps; a row each sample.

    Attributes:
        text: encoder hidden states, (B, tokens, width).
        pooled: SDXL's pooled text embedding, (B, width).
        time_ids: SDXL's original size, crop and target size, (B, 6).
    """

    text: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None

    def where(self, mask: Tensor, other: Conditioning) -> Conditioning:
        """Take the texts of ``other`` in the rows where ``mask``, (B,), holds; time ids say nothing of text, and stay."""
        text = torch.where(mask[:, None, None], other.text, self.text)
        if self.pooled is None or other.pooled is None:
            return replace(self, text=text)
        return replace(self, text=text, pooled=torch.where(mask[:, None], other.pooled, self.pooled))

    def rows(self, index: Tensor | slice) -> Conditioning:
        """Some of the rows."""
        pooled, time_ids = (None if each is None else each[index] for each in (self.pooled, self.time_ids))
        return Conditioning(self.text[index], pooled, time_ids)

    def cat(self, other: Conditioning) -> Conditioning:
        """These rows, then those of ``other``."""
        rows = [
            None if mine is None or theirs is None else torch.cat([mine, theirs])
            for mine, theirs in ((self.pooled, other.pooled), (self.time_ids, other.time_ids))
        ]
        return Conditioning(torch.cat([self.text, other.text]), *rows)

    def to(self, dtype: torch.dtype) -> Conditioning:
        """The same in another precision; time ids stay whole numbers in float32, as the UNet embeds them."""
        pooled = None if self.pooled is None else self.pooled.to(dtype)
        return replace(self, text=self.text.to(dtype), pooled=pooled)

    def kwargs(self) -> dict[str, object]:
        """The keyword arguments of the UNet's forward."""
        kwargs: dict[str, object] = {"encoder_hidden_states": self.text}
        if self.pooled is not None:
            kwargs["added_cond_kwargs"] = {"text_embeds": self.pooled, "time_ids": self.time_ids}
        return kwargs


@dataclass(frozen=True)
class Batch:
    """Samples of one size.

    Attributes:
        latents: clean latents as the UNet knows them (scaled), (B, 4, height / 8, width / 8).
        conditioning: of the samples' captions.
        unconditional: of the empty caption, with the samples' own time ids.
    """

    latents: Tensor
    conditioning: Conditioning
    unconditional: Conditioning

    def __len__(self) -> int:
        return len(self.latents)

    def with_captions_dropped(self, share: float, draws: Draws) -> Conditioning:
        """The conditioning with this share of the captions, drawn by sample, replaced by the empty one."""
        dropped = draws.uniform("caption") < share
        return self.conditioning.where(dropped.to(self.latents.device), self.unconditional)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a part of one step's batch.

    Each is a function of seed, stage, step, purpose and the sample's place in the whole batch, and of nothing else: a
    resumed run, another number of processes or another micro-batch draws the same. All are made on the CPU.

    Attributes:
        seed: of the recipe.
        stage: ``align``, ``distill``, …
        step: of the stage, from 0.
        slots: places in the whole batch of the samples that are drawn for.
    """

    seed: int
    stage: str
    step: int
    slots: Sequence[int]

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (slots, *shape)."""
        return torch.stack(
            [torch.randn(tuple(shape), generator=self._of(purpose, slot)) for slot in self.slots]
        )

    def uniform(self, purpose: str) -> Tensor:
        """Numbers in [0, 1), one a slot."""
        return torch.cat([torch.rand(1, generator=self._of(purpose, slot)) for slot in self.slots])

    def shared(self, purpose: str) -> float:
        """One number in [0, 1) for the whole batch, the same in every part of it."""
        return float(torch.rand((), generator=self._of(purpose, None)))

    def _of(self, purpose: str, slot: int | None) -> torch.Generator:
        key = f"{self.seed}/{self.stage}/{self.step}/{purpose}/{slot}"
        digest = hashlib.sha256(key.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
