"""Encoded training data: which samples a step takes, and their tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from linzoo.distillation.batch import Batch, Conditioning
from linzoo.distillation.data.cache import Cache
from linzoo.distillation.data.fill import UNCONDITIONAL, caption_key
from linzoo.distillation.data.items import Size, fingerprint
from linzoo.distillation.data.manifest import Manifest
from linzoo.distillation.data.order import batch_positions


@dataclass(frozen=True)
class Sample:
    """One of an item's latents with its caption.

    Attributes:
        key: of its latents.
        caption: as it was written.
        base: index of the size of the recipe that it belongs to; 0 is what is trained on until the finish.
        size: width and height in pixels.
        held_out: whether it is kept from training.
    """

    key: str
    caption: str
    base: int
    size: Size
    held_out: bool


class LatentData:
    """A data set whose latents and texts are all on disk.

    Args:
        manifest: its items.
        latents: the cache that has their latents.
        texts: the cache that has their captions' encodings.
        held_out: how many pictures or prompts are kept from training, with all that is made of them: those with the
            smallest hashes. The first sample of each is measured on.
        identity: what the data depends on besides the items.
        notes: what the user should know besides what the manifest says.

    Attributes:
        samples: every sample; indices count in them.
        digest: tells the data set and how it was encoded from any other; the same wherever it is encoded.
        sizes: the sizes of the training samples, in pixels.
        notes: what the user should know of it.
    """

    def __init__(
        self,
        manifest: Manifest,
        latents: Cache,
        texts: Cache,
        held_out: int,
        identity: object,
        notes: Sequence[str] = (),
    ) -> None:
        self._latents = latents
        self._texts = texts
        self._unconditional = texts.tensors(UNCONDITIONAL)
        self.notes = (*notes, *manifest.notes)
        rows = sorted(manifest.rows, key=lambda row: (row.item, row.caption))  # whatever files are called
        ranked = sorted({row.item for row in rows}, key=held_out_rank)
        measured: dict[str, int | None] = dict.fromkeys(ranked[:held_out])
        self.samples: list[Sample] = []
        self._training: dict[tuple[int, Size], list[int]] = defaultdict(list)
        for row in rows:
            for base, key in row.views:
                width, height = latents.info(key)["size"]
                kept, index = row.item in measured, len(self.samples)
                self.samples.append(Sample(key, row.caption, base, (width, height), kept))
                if not kept:
                    self._training[base, (width, height)].append(index)
                elif measured[row.item] is None:
                    measured[row.item] = index
        self._held_out = [index for index in measured.values() if index is not None]
        self.sizes = tuple(sorted({size for _, size in self._training}))
        self.digest = fingerprint(identity, held_out, [(row.item, row.caption, row.views) for row in rows])

    def __len__(self) -> int:
        """Training samples, without those of the finish."""
        return sum(len(samples) for (base, _), samples in self._training.items() if base == 0)

    @property
    def held_out(self) -> int:
        """Samples that are measured on."""
        return len(self._held_out)

    def indices(self, seed: int, stage: str, step: int, batch: int, *, finishing: bool = False) -> list[int]:
        """The samples of one step's whole batch, all of one size; depends on nothing but the arguments.

        Args:
            seed: of the recipe.
            stage: name of the stage.
            step: of the stage, from 0.
            batch: samples of a step; a set that is smaller comes round within a step.
            finishing: take samples of all sizes, and not of the first alone.
        """
        buckets = [samples for (base, _), samples in sorted(self._training.items()) if finishing or base == 0]
        order = f"{stage} finishing" if finishing else stage
        bucket, positions = batch_positions([len(each) for each in buckets], seed, order, step, batch)
        return [buckets[bucket][position] for position in positions]

    def load(self, indices: Sequence[int], device: torch.device | str) -> Batch:
        """The samples at these indices, of one size, in float32."""
        samples = [self.samples[index] for index in indices]
        latents = _stacked([self._latents.tensors(sample.key)["latents"] for sample in samples], device)
        texts = [self._texts.tensors(caption_key(sample.caption)) for sample in samples]
        text = _stacked([each["text"] for each in texts], device)
        empty = {
            name: _stacked([tensor], device).expand(len(samples), *tensor.shape)
            for name, tensor in self._unconditional.items()
        }
        if "pooled" not in empty:
            return Batch(latents, Conditioning(text), Conditioning(empty["text"]))
        pooled = _stacked([each["pooled"] for each in texts], device)
        numbers = [self._latents.info(sample.key)["time_ids"] for sample in samples]
        time_ids = torch.tensor(numbers, dtype=torch.float32, device=device)
        return Batch(
            latents,
            Conditioning(text, pooled, time_ids),
            Conditioning(empty["text"], empty["pooled"], time_ids),
        )

    def held_out_batches(self, count: int, micro: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """The first ``count`` held-out samples, or as many as there are, at most ``micro`` at once, always the same."""
        by_size: dict[Size, list[int]] = defaultdict(list)
        for index in self._held_out[:count]:
            by_size[self.samples[index].size].append(index)
        for _, indices in sorted(by_size.items()):
            for start in range(0, len(indices), micro):
                yield self.load(indices[start : start + micro], device)


def held_out_rank(item: str) -> str:
    """What items are sorted by to choose those that are kept from training: the first of them are."""
    return fingerprint("held out", item)


def _stacked(rows: Sequence[Tensor], device: torch.device | str) -> Tensor:
    return torch.stack(list(rows)).to(device).float()
