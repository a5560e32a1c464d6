"""A fine-tune without training: published practice, the delta, and calibration, on mini's shipped fine-tune."""

from __future__ import annotations

from pathlib import Path

from linzoo_benchmarks.csvfile import CsvFile
from linzoo_benchmarks.distillation.ablation import SOURCE, Bench, Say, recipe_of
from linzoo_benchmarks.distillation.arms import ARMS, SEEDS, UNTRAINED
from linzoo_benchmarks.distillation.rows import TRANSFER, TransferRow, origin
from linzoo_benchmarks.errors import BenchmarkError

FINE_TUNE, ITEMS = "mini-3d", 160
"""Enough to calibrate with, and to measure on."""
STARTS = ("pretrained", "delta", "delta + calibrate", "calibrated")
_CALIBRATED = UNTRAINED[-1]
_DISTILLED = next(arm for arm in ARMS if arm.name == "ours")


def run(out: Path, work: Path, say: Say) -> list[TransferRow]:
    """Measure every start for the weights of every seed that the ablation has distilled and ``out`` has no row of.

    Args:
        out: CSV file of :class:`TransferRow`.
        work: the folder that the ablation ran in.
        say: told each row.

    Raises:
        BenchmarkError: the ablation has no distilled weights of mini yet, or ``out`` holds something else.
    """
    file = CsvFile(out, TRANSFER)
    done = {(row.start, row.seed) for row in file.rows()}
    bench = Bench(work / "transfer", FINE_TUNE, ITEMS)
    found = {seed: distilled(work, seed) for seed in SEEDS}
    if not any(found.values()):
        raise BenchmarkError(
            f"{work} has no distilled weights of {SOURCE} yet; run `linzoo bench distill ablation` first."
        )
    for seed, linfusion in found.items():
        for start in STARTS:
            if linfusion is not None and (start, seed) not in done:
                quality = bench.judge.judge(_start(bench, start, seed, linfusion))
                file.append(TransferRow(start=start, seed=seed, **quality, **origin()))
                say(f"transfer, seed {seed}: {start}: KD {quality['kd']:.5f}")
    return file.rows()


def distilled(work: Path, seed: int) -> Path | None:
    """The weights that the ablation's complete arm left; None where it has not run."""
    recipe = recipe_of(_DISTILLED, seed)
    digest = recipe.sha256[:8] if recipe else ""
    folder = work / "runs" / f"{_DISTILLED.name}-{seed}-{digest}" / "linfusion"
    return folder if folder.is_dir() else None


def _start(bench: Bench, start: str, seed: int, linfusion: Path) -> Path:
    """Make the weights, without a single training step."""
    init = start.partition(" ")[0]
    if init == "calibrated":
        return _calibrated(bench, bench.start("teacher", seed), f"calibrated-{seed}", seed)
    sources = {"linfusion": linfusion} | ({"base": SOURCE} if init == "delta" else {})
    made = bench.start(init, seed, **sources)
    return _calibrated(bench, made, f"delta-calibrated-{seed}", seed) if "+" in start else made


def _calibrated(bench: Bench, checkpoint: Path, name: str, seed: int) -> Path:
    return bench.distill(checkpoint, "mini", _CALIBRATED.settings(seed), bench.work / "runs" / name)
