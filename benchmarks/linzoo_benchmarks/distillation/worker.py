"""One training loop in a process of its own, timed and weighed: ``python -m linzoo_benchmarks.distillation.worker``."""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from linzoo.attention.linfusion import LinFusion
from linzoo.distillation.batch import Batch
from linzoo.distillation.distill import DistillStage
from linzoo.distillation.lookup import find_recipe
from linzoo.distillation.noise import Noise
from linzoo.distillation.processes import Processes
from linzoo.distillation.student import Student
from linzoo.distillation.trainer import Trainer
from linzoo_benchmarks.distillation.models import registry
from linzoo_benchmarks.distillation.networks import Networks, each_of
from linzoo_benchmarks.distillation.published import PublishedLoop
from linzoo_benchmarks.timing import Task, peak_memory

WARM, STEPS = 2, 8
WEIGHED = 2
"""Steps whose memory is counted: the optimiser's moments are there from the second on."""
MID_DIVISOR = {"sdxl": 16}
"""``mid_dim_scale`` of the published scripts where it is not 1."""


class TrainingLoop(Protocol):
    """Something that trains step by step."""

    def step(self) -> object:
        """Take one step."""


@dataclass(frozen=True)
class Given:
    """Training data that is one batch in host memory, as it comes out of linzoo's caches."""

    batch: Batch

    def indices(self, seed: int, stage: str, step: int, batch: int, *, finishing: bool = False) -> range:  # noqa: ARG002
        """All samples."""
        return range(batch)

    def load(self, indices: Sequence[int], device: torch.device) -> Batch:
        """The samples on the device."""

        def take(tensor: Tensor) -> Tensor:
            return tensor[list(indices)].to(device)

        batch = self.batch
        conditioning = each_of(batch.conditioning, take)
        return Batch(take(batch.latents), conditioning, conditioning)


def our_loop(
    networks: Networks,
    dtype: torch.dtype,
    batch: int,
    *,
    checkpointing: bool = False,
    micro_batch: int | None = None,
) -> Trainer:
    """Linzoo's loop with the published losses, so that it computes what the published one does."""
    recipe = find_recipe(
        f"official-{networks.variant.id}",
        registry(),
        overrides=(
            f"distill.batch={batch}",
            f"distill.micro_batch={micro_batch or batch}",
            "data.caption_dropout=0",
        ),
    ).recipe
    assert recipe.distill is not None
    unet = networks.unet(dtype)
    divisor = MID_DIVISOR.get(networks.variant.id, 1)
    entries = [
        {
            "module_name": name,
            "dim_n": module.to_q.in_features,
            "heads": module.heads,
            "projection_mid_dim": None if divisor == 1 else module.to_q.in_features // divisor,
        }
        for name, module in unet.named_modules()
        if name.endswith("attn1")
    ]
    student = Student(unet, LinFusion(modules_list=entries).to(networks.device))
    if checkpointing:
        student.enable_gradient_checkpointing()
    return Trainer(
        DistillStage(student, Noise(networks.scheduler), recipe),
        student,
        recipe.distill,
        Given(networks.batch(dtype, batch)),
        seed=0,
        processes=Processes(networks.device.type),
        max_skips=0,
    )


LOOPS: Mapping[str, Callable[[Networks, torch.dtype, int], TrainingLoop]] = {
    "published": lambda networks, dtype, batch: _published(networks, dtype, batch, encodes=True),
    "published, given latents": lambda networks, dtype, batch: _published(networks, dtype, batch, encodes=False),
    "ours": our_loop,
    "ours, two micro-batches": lambda networks, dtype, batch: our_loop(networks, dtype, batch, micro_batch=batch // 2),
    "ours, checkpointing": lambda networks, dtype, batch: our_loop(networks, dtype, batch, checkpointing=True),
}  # fmt: skip


def _published(networks: Networks, dtype: torch.dtype, batch: int, *, encodes: bool) -> PublishedLoop:
    divisor = MID_DIVISOR.get(networks.variant.id, 1)
    return PublishedLoop(networks, dtype, batch, encodes=encodes, mid_divisor=divisor)


def measure(size: str, name: str, batch: int) -> dict[str, float]:
    """Build the loop, time its steps; build it again and count the memory of its tensors."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    networks = Networks(size, device)
    before = _resident()
    loop = LOOPS[name](networks, dtype, batch)
    seconds = [_timed(loop, device) for _ in range(WARM + STEPS)][WARM:]
    resident = _most_resident() - before
    del loop
    gc.collect()

    def build_and_train(_: object) -> TrainingLoop:
        loop = LOOPS[name](networks, dtype, batch)
        for _ in range(WEIGHED):
            loop.step()
        return loop

    return {
        "samples_per_second": batch / statistics.median(seconds),
        "peak_mb": peak_memory(Task(build_and_train), device) / 1e6,
        "resident_mb": resident / 1e6 if device.type == "cpu" else 0.0,
    }


def _timed(loop: TrainingLoop, device: torch.device) -> float:
    """Seconds of a step; on a CPU of processor time, so that other programs on the machine do not count."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    begin = clock()
    loop.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _most_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    size, name, batch = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(size, name, int(batch))) + "\n")
