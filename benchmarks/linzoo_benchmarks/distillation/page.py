"""docs/results/distillation.md: everything that the rows say, as one page."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from linzoo_benchmarks.csvfile import Format, RowT
from linzoo_benchmarks.distillation import arms as design
from linzoo_benchmarks.distillation.bars import PUBLISHED, judge, steps_to_match, turns
from linzoo_benchmarks.distillation.rows import (
    ABLATION,
    CURVE,
    RESOLUTION,
    SPEED,
    TRANSFER,
    AblationRow,
    CurveRow,
    Origin,
    ResolutionRow,
    SpeedRow,
    TransferRow,
)

NAMES = {
    "ablation": "distill-ablation.csv",
    "curves": "distill-curves.csv",
    "transfer": "distill-transfer.csv",
    "resolution": "distill-resolution.csv",
    "speed": "distill-speed.csv",
}
"""The file of each kind of row, in the folder of results."""
QUALITY = {"kd": ".5f", "guided": ".4f", "features": ".4f", "psnr": ".1f"}
QUALITY_HEADS = ("KD", "guided KD at 7.5", "feature error", "PSNR to the teacher, dB")
Cells = Sequence[str]
KeyT = TypeVar("KeyT")


@dataclass(frozen=True)
class Results:
    """The rows of every experiment that has run."""

    ablation: Sequence[AblationRow] = ()
    curves: Sequence[CurveRow] = ()
    transfer: Sequence[TransferRow] = ()
    resolution: Sequence[ResolutionRow] = ()
    speed: Sequence[SpeedRow] = field(default=())

    @staticmethod
    def read(folder: Path) -> Results:
        """The rows in a folder; an experiment without a file has none.

        Raises:
            BenchmarkError: a file is something else.
        """

        def rows(name: str, form: Format[RowT]) -> list[RowT]:
            path = folder / NAMES[name]
            return form.read(path) if path.exists() else []

        return Results(
            current(rows("ablation", ABLATION)),
            current(rows("curves", CURVE)),
            rows("transfer", TRANSFER),
            rows("resolution", RESOLUTION),
            rows("speed", SPEED),
        )


MeasuredT = TypeVar("MeasuredT", AblationRow, CurveRow)


def current(rows: Sequence[MeasuredT]) -> list[MeasuredT]:
    """The rows of every arm and seed under the settings that it was last measured with."""
    last = {(row.arm, row.seed): row.recipe for row in rows}
    return [row for row in rows if row.recipe == last[row.arm, row.seed]]


def write(results: Results, path: Path) -> Path:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results), encoding="utf-8")
    return path


def page(results: Results) -> str:
    """The page as Markdown; it says nothing of what has not been measured."""
    parts = [_HEAD]
    sections: list[tuple[Sequence[Origin], Callable[[Results], list[str]]]] = [
        (results.ablation, _ablation),
        (results.transfer, _transfer),
        (results.resolution, _resolution),
        (results.speed, _speed),
    ]
    measured = [make for rows, make in sections if rows]
    if measured:
        verdicts = judge(results.ablation, results.curves, results.transfer, results.speed)
        heads = ("bar", "limit", "measured", "")
        parts += ["## Bars", _table(heads, [verdict.cells() for verdict in verdicts])]
    for make in measured:
        parts += make(results)
    return "\n\n".join(parts) + "\n"


_HEAD = f"""# Distillation, measured on mini

<!-- Written by `linzoo bench distill report` from benchmarks/results/distill-*.csv; not to be edited. -->

Everything here is measured on mini, the model of 2.6 million parameters that ships with linzoo, on one core of a CPU in
float32, by `make bench-distill`. mini is really trained, but small: read the order of the rows and how far they are apart,
not the numbers themselves. Nothing here was measured on Stable Diffusion or on a GPU.

**KD** is the mean squared difference of student's and teacher's prediction on {design.SAMPLES} held-out samples, at timesteps and
with noise that are the same for all; **guided KD** that of the predictions under classifier-free guidance at 7.5; **feature
error** the squared error of the replaced attentions' outputs over that of the teacher's, mean over layers; **PSNR** compares
the pictures of sixteen prompts, drawn by both from the same noise. A ± is the standard deviation over seeds. Calibration
chooses among a dozen candidates by KD on the same held-out samples with other noise; no arm trains on them."""


def _ablation(results: Results) -> list[str]:
    by_arm = _grouped(results.ablation, lambda row: row.arm)
    rows = []
    for arm in (*design.UNTRAINED, *design.ARMS):
        if arm.name in by_arm:
            found = by_arm[arm.name]
            rows.append((arm.label, *_quality(found), _spread([row.seconds for row in found], ".0f")))
    seeds = len({row.seed for row in results.ablation})
    return [
        "## Ablation: from the published recipe to linzoo's",
        f"`linzoo bench distill ablation`. {design.STEPS} optimiser steps of {design.BATCH} samples in every trained arm, those "
        f"of align among them; {seeds} seeds, each of which changes initial weights, order of the data and noise. Every arm is "
        "`linzoo distill` with a shipped recipe and settings changed (`linzoo_benchmarks/distillation/arms.py`); from the "
        "second to the CFG-aware one each keeps the changes before it, and all learning rates but align's are those of "
        "`official-mini`. What `ours complete` has beyond that is in `mini.yaml`: loss weights, schedule and learning "
        "rates, clipping, running average. Seconds are of processor time, with what is measured on the way. So few steps "
        "favour what starts near the teacher: the longer a random start trains, the more of its distance it makes up.",
        _table(("arm", *QUALITY_HEADS, "seconds"), rows),
        *_against_tuned(results),
        *_curves(results),
    ]


def _against_tuned(results: Results) -> list[str]:
    """The bars' ratios against the control that has had its learning rate chosen too; no bar is about them."""
    ours, tuned = (
        [row for row in results.ablation if row.arm == name] for name in ("ours", "tuned")
    )  # fmt: skip
    if not ours or not tuned:
        return []
    kd, guided = (
        statistics.mean(getattr(row, name) for row in ours) / statistics.mean(getattr(row, name) for row in tuned)
        for name in ("kd", "guided")
    )  # fmt: skip
    share = steps_to_match(results.ablation, results.curves, "tuned")
    reached = "" if share is None else f" and comes to its final KD in {share:.2f} of its steps"
    return [
        "The bars above are about the shipped `official-mini`, whose learning rate, 0.001, is ten times the published one. "
        f"Against the rate that suits the published recipe best here, ours complete ends at {kd:.2f} of its KD and "
        f"{guided:.2f} of its guided KD{reached}."
    ]


def _curves(results: Results) -> list[str]:
    if not results.curves:
        return []
    steps = sorted({row.step for row in results.curves})
    shown = [step for step in steps if step % (2 * design.CURVE_EVERY) == 0]
    found = _grouped(results.curves, lambda row: (row.arm, row.step))
    rows = [
        (arm.label, *(_mean([row.kd for row in found.get((arm.name, step), [])], ".4f") for step in shown))
        for arm in design.ARMS
        if any(row.arm == arm.name for row in results.curves)
    ]
    return ["KD over the steps, mean over seeds:", _table(("arm", *map(str, shown)), rows)]


def _transfer(results: Results) -> list[str]:
    by_start = _grouped(results.transfer, lambda row: row.start)
    return [
        "## A fine-tune, without training",
        "`linzoo bench distill transfer`. The teacher is `mini-3d`, a fine-tune of mini that ships with linzoo. "
        "`pretrained` mounts the weights that the ablation's complete arm distilled from mini as they are, which is "
        "today's practice; `delta` adds what the fine-tune changed in its base; calibration looks at the fine-tune's own "
        "latents; `calibrated` starts from the fine-tune and needs no distilled weights at all.",
        _table(("start", *QUALITY_HEADS), [(start, *_quality(rows)) for start, rows in by_start.items()]),
    ]


def _resolution(results: Results) -> list[str]:
    by_mixer = _grouped(results.resolution, lambda row: row.mixer)
    factors = sorted({row.factor for row in results.resolution})
    tokens = {row.factor: row.tokens for row in results.resolution}
    rows = []
    for mixer, found in by_mixer.items():
        at = _grouped(found, lambda row: row.factor)
        errors = (_spread([row.error for row in at[factor]], ".3f") for factor in factors)
        rows.append((mixer, *errors, _mean([row.growth for row in at[factors[-1]]], ".1f")))
    return [
        "## More tokens than it was made for",
        "`linzoo bench distill resolution`. The paper's argument for normalisation: what all tokens together contribute to "
        "one must not depend on how many they are. Three mixers with the same features, fitted to the teacher's attention at "
        "its own size in closed form, then compared with it on pictures of more tokens; relative squared error, mean over "
        "layers. `normalised` is LinFusion's; `mean` divides by the number of tokens; `sum` by a constant, the number of "
        "tokens that it was fitted at.",
        _table(("mixer", *(f"{factor}x ({tokens[factor]:,} tokens)" for factor in factors), "growth"), rows),
    ]


def _speed(results: Results) -> list[str]:
    parts = [
        "## Speed and memory of the loop",
        "`linzoo bench distill speed`. Every loop runs in a fresh process; loops take turns; the same losses, batches of the same "
        "size, no pictures read from a disk. `published` has the structure of the published script: two UNets, hooks that "
        "append to lists, pictures and captions encoded in every step, the published order of operations. `published, given "
        "latents` is spared the encoding, so that what is left is the loop itself. `ours` has the published losses. Peak "
        "memory counts bytes in tensors, weights and optimiser among them, as an accelerator's allocator would; on a "
        "CPU, resident is what the process grew by, libraries that are loaded on first use among it. Samples a second are "
        "of processor time on a CPU. Checkpointing is what hooks that append to a list do not survive: the recomputation "
        "appends again. Medians over turns, with the smallest and the largest ratio.",
    ]
    for size, rows in _grouped(results.speed, lambda row: row.size).items():
        body = []
        for loop, found in _grouped(rows, lambda row: row.loop).items():
            ratios = [
                _range(turns(rows, size, loop, PUBLISHED, name)) for name in ("samples_per_second", "peak_mb")
            ]
            numbers = [
                f"{statistics.median(getattr(row, name) for row in found):{form}}"
                for name, form in (("samples_per_second", ".1f"), ("peak_mb", ".0f"), ("resident_mb", ".0f"))
            ]
            body.append((loop, *numbers, *ratios))
        heads = (
            "loop",
            "samples/s",
            "peak MB",
            "resident MB",
            "speed over published",
            "memory over published",
        )
        parts += [f"{size}, batch {rows[0].batch}, {rows[0].device}:", _table(heads, body)]
    return parts


def _quality(rows: Sequence[AblationRow] | Sequence[TransferRow]) -> list[str]:
    return [_spread([getattr(row, name) for row in rows], form) for name, form in QUALITY.items()]


def _spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation."""
    if len(values) < 2:
        return _mean(values, form)
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values):{form}}"


def _mean(values: Sequence[float], form: str) -> str:
    return f"{statistics.mean(values):{form}}" if values else ""


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _grouped(rows: Iterable[RowT], key: Callable[[RowT], KeyT]) -> Mapping[KeyT, list[RowT]]:
    groups: dict[KeyT, list[RowT]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _table(heads: Cells, rows: Iterable[Cells]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
