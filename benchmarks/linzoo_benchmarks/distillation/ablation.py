"""The ablation: every arm with every seed through ``linzoo.distill``, a row each as it finishes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import linzoo
from linzoo.distillation.data.prepare import prepare_data
from linzoo.distillation.lookup import find_recipe
from linzoo_benchmarks.csvfile import CsvFile
from linzoo_benchmarks.distillation.arms import ARMS, BATCH, MEASURED, SEEDS, UNTRAINED, Arm
from linzoo_benchmarks.distillation.judge import Judge
from linzoo_benchmarks.distillation.models import open_pipeline, registry
from linzoo_benchmarks.distillation.rows import ABLATION, CURVE, AblationRow, CurveRow, origin

if TYPE_CHECKING:
    from linzoo.distillation.data.latents import LatentData
    from linzoo.distillation.document import ResolvedRecipe

Say = Callable[[str], None]
SOURCE, VARIANT, RECIPE = "mini", "mini", "mini"
ITEMS = 512


@dataclass(frozen=True)
class Bench:
    """A folder in which runs lie, and the teacher that all are judged by.

    Attributes:
        work: the folder; what lies there is gone on from.
        source: the teacher.
        items: how many items of the recipe's data are drawn.
    """

    work: Path
    source: str
    items: int

    @property
    def cache(self) -> Path:
        """Latents and texts, the same for all runs."""
        return self.work / "cache"

    @cached_property
    def pipe(self) -> Any:
        """The teacher's pipeline."""
        return open_pipeline(self.source)

    @cached_property
    def data(self) -> LatentData:
        """What the teacher is distilled on, encoded where it is not yet."""
        cache = f"data.cache={json.dumps(str(self.cache))}"
        recipe = find_recipe(RECIPE, registry(), overrides=(*MEASURED, *self.settings, cache)).recipe
        variant = registry().variants.get_value(VARIANT)
        return prepare_data(recipe, self.pipe, variant=variant, device=torch.device("cpu"))

    @cached_property
    def judge(self) -> Judge:
        """Measures students of this teacher."""
        return Judge(self.pipe, self.data)

    @property
    def settings(self) -> tuple[str, ...]:
        """What every run here is told besides its own settings."""
        return (f"data.max_items={self.items}",)

    def start(self, init: str, seed: int, **sources: Any) -> Path:
        """A LinFusion checkpoint of the teacher as an init recipe makes it."""
        out = self.work / "starts" / f"{init}-{seed}"
        if not out.exists():
            linzoo.convert(self.source, out, init=init, seed=seed, registry=registry(), **sources)
        return out

    def distill(self, checkpoint: Path, recipe: str, settings: Sequence[str], out: Path) -> Path:
        """Run ``linzoo.distill``, or go on with it; returns the folder of the LinFusion checkpoint."""
        there = out.exists()
        return linzoo.distill(
            checkpoint,
            self.source,
            recipe=recipe,
            overrides=(*settings, *self.settings),
            out=out,
            resume="latest" if there else None,
            device="cpu",
            cache=self.cache,
            registry=registry(),
        ).checkpoint


def run(
    out: Path, curves: Path, work: Path, say: Say, *, arms: Sequence[Arm] = (*UNTRAINED, *ARMS),
    seeds: Sequence[int] = SEEDS,
) -> list[AblationRow]:  # fmt: skip
    """Run every arm with every seed that ``out`` has no row of; a seed's arms come one after the other.

    Args:
        out: CSV file of :class:`AblationRow`.
        curves: CSV file of :class:`CurveRow`.
        work: folder for data, runs and checkpoints; an interrupted run is gone on with.
        say: told each row.
        arms: which.
        seeds: which.

    Raises:
        BenchmarkError: a file holds something else.
    """
    file, curve = CsvFile(out, ABLATION), CsvFile(curves, CURVE)
    bench = Bench(work, SOURCE, ITEMS)
    done = {(row.arm, row.seed, row.recipe) for row in file.rows()}
    for seed in seeds:
        for arm in arms:
            digest = _digest(arm, seed)
            if (arm.name, seed, digest) not in done:
                row = _measure(bench, arm, seed, digest, curve)
                file.append(row)
                say(f"{arm.name}, seed {seed}: KD {row.kd:.5f}, guided {row.guided:.4f}, {row.seconds:.0f} s")
    return file.rows()


def _measure(bench: Bench, arm: Arm, seed: int, digest: str, curve: CsvFile[CurveRow]) -> AblationRow:
    checkpoint = bench.start(arm.start, seed)
    steps, seconds = 0, 0.0
    if arm.recipe is not None:
        out = bench.work / "runs" / f"{arm.name}-{seed}-{digest[:8]}"
        len(bench.data)  # encoded before the clock starts
        began = time.process_time()
        checkpoint = bench.distill(checkpoint, arm.recipe, arm.settings(seed), out)
        seconds = time.process_time() - began
        for step, kd in _curve(out / "metrics.jsonl"):
            curve.append(CurveRow(arm=arm.name, seed=seed, step=step, kd=kd, recipe=digest, **origin()))
            steps = step
        shutil.rmtree(out / "state", ignore_errors=True)
    quality = bench.judge.judge(checkpoint)
    return AblationRow(
        arm=arm.name, seed=seed, steps=steps, batch=BATCH, seconds=seconds, recipe=digest, **quality, **origin()
    )  # fmt: skip


def _curve(metrics: Path) -> Iterator[tuple[int, float]]:
    """KD after each validation, by optimiser steps of all stages."""
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["kind"] == "validation":
            yield record["step"], record["kd"]


def recipe_of(arm: Arm, seed: int) -> ResolvedRecipe | None:
    """The settings that an arm runs with; None for one that is not trained."""
    if arm.recipe is None:
        return None
    return find_recipe(arm.recipe, registry(), overrides=arm.settings(seed))


def _digest(arm: Arm, seed: int) -> str:
    recipe = recipe_of(arm, seed)
    return "" if recipe is None else recipe.sha256[:16]
