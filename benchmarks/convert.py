"""Memory and time of ``linzoo convert`` beside copying the file, and beside loading and saving it with diffusers.

    python benchmarks/convert.py                 # SD 1.5- and SD-XL-sized files; needs 12 GB of disk for a while
    python benchmarks/convert.py --sizes sd15 --repeats 1

Prints a table and writes ``benchmarks/results/convert-cpu.csv``. The files are UNets in the LDM layout in half
precision, full of noise; what diffusers is asked for is the UNet alone, so its row is a lower bound for a pipeline.
Memory is the peak of ``RssAnon``: the page cache, which the kernel takes back at will, does not count.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.checkpoints.writer import SafetensorsWriter, TensorSpec
from linzoo.registry import build_registry

RESULTS = Path(__file__).parent / "results" / "convert-cpu.csv"
LINZOO = "from linzoo.cli.main import main; main()"
DIFFUSERS = """
import sys, torch
from diffusers import UNet2DConditionModel
source, config, out = sys.argv[1:]
unet = UNet2DConditionModel.from_single_file(source, config=config, subfolder="unet", torch_dtype=torch.float16)
unet.save_pretrained(out)
"""


@dataclass(frozen=True)
class Measurement:
    """One run of a program: seconds from start to end, seconds of CPU, and the most anonymous memory that it held."""

    seconds: float
    cpu: float
    anonymous: int


def write_checkpoint(path: Path, config: Mapping[str, Any], filler: int = 0) -> Path:
    """Write a half-precision LDM file with the tensors of a UNet config: one piece of noise again and again.

    Args:
        path: the file.
        config: a diffusers UNet config.
        filler: bytes of other tensors, as text encoders and the VAE would be.
    """
    keys = UNetKeyMap(config)
    specs = [
        TensorSpec(LDM_PREFIX + keys.to_ldm(name), "F16", shape)
        for name, shape in unet_manifest(config).items()
    ]
    specs += [
        TensorSpec(f"conditioner.filler.{index}.weight", "F16", (1000, 5000))
        for index in range(filler // 10**7)
    ]
    count = max(spec.nbytes for spec in specs) // 2
    noise = (np.random.default_rng(0).standard_normal(count, np.float32) * 0.03).astype(np.float16)
    with SafetensorsWriter(path, specs, {}) as writer:
        for spec in writer.order:
            writer.write(spec.name, noise[: spec.nbytes // 2].reshape(spec.shape))
    return path


def measure(arguments: Sequence[str]) -> Measurement:
    """Run a program and watch it.

    Raises:
        subprocess.CalledProcessError: it failed; its stderr is printed.
    """
    peak, before = 0, _cpu_of_children()
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=errors) as process:
            while process.poll() is None:
                peak = max(peak, _anonymous(process.pid))
                time.sleep(0.005)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            raise subprocess.CalledProcessError(process.returncode, arguments)
    return Measurement(seconds, _cpu_of_children() - before, peak)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0
    )


def programs(source: Path, out: Path, components: Path) -> dict[str, list[str]]:
    """The command lines that are compared, by what the table calls them."""
    return {
        "cp": ["cp", str(source), str(out)],
        "linzoo convert": [sys.executable, "-c", LINZOO, "convert", str(source), str(out), "-q"],
        "linzoo convert --init random": [
            sys.executable, "-c", LINZOO, "convert", str(source), str(out), "-q", "--init", "random",
        ],
        "diffusers load + save": [sys.executable, "-c", DIFFUSERS, str(source), str(components), str(out)],
    }  # fmt: skip


def benchmark(size: str, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """Measure every program on a file of one size; the best time and the largest memory of all repeats."""
    variant = build_registry(entry_points=False).variants.get_value(size)
    source = write_checkpoint(folder / f"{size}.safetensors", component_config(variant, "unet"))
    rows = []
    for name, command in programs(source, folder / "out", variant.components.locate()).items():
        runs = []
        for _ in range(repeats):
            os.sync()
            runs.append(measure(command))
            _remove(folder / "out")
        rows.append(
            {
                "size": size,
                "program": name,
                "file_mb": round(source.stat().st_size / 1e6),
                "anonymous_mb": round(max(run.anonymous for run in runs) / 1e6),
                "seconds": round(min(run.seconds for run in runs), 2),
                "cpu_seconds": round(min(run.cpu for run in runs), 2),
            }
        )
    source.unlink()
    return rows


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["sd15", "sdxl"], help="variants whose size the files have"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the files go meanwhile (default: the temporary folder)"
    )
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in options.sizes:
            rows += benchmark(size, Path(folder), options.repeats)
    copied = {row["size"]: row["seconds"] for row in rows if row["program"] == "cp"}
    print(
        "| file | program | peak anonymous memory | time | against cp | CPU time |\n|---|---|---|---|---|---|"
    )
    for row in rows:
        ratio = row["seconds"] / copied[row["size"]]
        print(
            f"| {row['size']}, {row['file_mb']:,} MB | {row['program']} | {row['anonymous_mb']:,} MB"
            f" | {row['seconds']:.1f} s | {ratio:.2f} | {row['cpu_seconds']:.1f} s |"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
