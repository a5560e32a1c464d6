"""Speed and memory of linzoo's training loop beside the published loop's structure, each in a fresh process.

Loops take turns, so that what the machine does meanwhile hits all alike. Both compute the same losses on batches of the
same size; no pictures are read from a disk. ``published`` encodes pictures and captions in every step, as its script
does; ``published, given latents`` is given what linzoo reads from its caches, so that the difference of the loops alone
is left.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from linzoo_benchmarks.csvfile import CsvFile
from linzoo_benchmarks.distillation.rows import SPEED, SpeedRow, origin
from linzoo_benchmarks.environment import default_device
from linzoo_benchmarks.errors import BenchmarkError

TURNS = 5
BATCH = {"mini": 32, "sd15": 6, "sdxl": 2}
"""The published scripts' on one GPU. mini's is twice its recipe's 16, of which halves are too small to keep a core busy."""
LOOPS = (
    "published", "published, given latents", "ours", "ours, two micro-batches", "ours, checkpointing",
)  # fmt: skip


def run(
    out: Path, say: Callable[[str], None], *, sizes: Sequence[str] = ("mini",), turns: int = TURNS
) -> list[SpeedRow]:
    """Measure every loop in every turn that ``out`` has no row of; returns all rows of the file.

    Raises:
        BenchmarkError: a loop fails, or ``out`` holds something else.
    """
    file = CsvFile(out, SPEED)
    done = {(row.size, row.loop, row.round) for row in file.rows()}
    device = default_device()
    for size in sizes:
        for turn in range(turns):
            for loop in LOOPS:
                if (size, loop, turn) not in done:
                    row = _row(size, loop, turn, device)
                    file.append(row)
                    say(
                        f"{size}, turn {turn}, {loop}: {row.samples_per_second:.1f} samples/s, {row.peak_mb:.0f} MB"
                    )
    return file.rows()


def _row(size: str, loop: str, turn: int, device: torch.device) -> SpeedRow:
    command = [sys.executable, "-m", "linzoo_benchmarks.distillation.worker", size, loop, str(BATCH[size])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"The loop {loop!r} at the size of {size} failed:\n{done.stderr}")
    measured = json.loads(done.stdout.splitlines()[-1])
    return SpeedRow(size=size, loop=loop, round=turn, batch=BATCH[size], **measured, **origin(device))
