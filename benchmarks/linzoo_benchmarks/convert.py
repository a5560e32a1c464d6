"""Memory and time of ``linzoo convert`` beside copying the same bytes, and beside a pipeline loaded and saved.

``linzoo bench convert`` prints a table and writes a CSV file. Everything is in half precision and full of noise, and
comes in two forms: a single file with the UNet in the LDM layout, and a diffusers folder with the whole pipeline.
Memory is the peak of ``RssAnon``: the page cache, which the kernel takes back at will, does not count.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linzoo.checkpoints.components import component_config, component_folder
from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.checkpoints.writer import SafetensorsWriter, TensorSpec
from linzoo.registry import build_registry

if TYPE_CHECKING:
    from linzoo.plugin import Variant

LINZOO = "from linzoo.cli.main import main; main()"
DIFFUSERS = """
import sys, torch
from diffusers import DiffusionPipeline
source, out = sys.argv[1:]
pipe = DiffusionPipeline.from_pretrained(source, torch_dtype=torch.float16, local_files_only=True)
pipe.save_pretrained(out)
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
    _write_noise(path, specs)
    return path


def write_pipeline(folder: Path, variant: Variant) -> Path:
    """Write the whole pipeline of a variant as a diffusers folder in half precision, full of noise."""
    with component_folder(variant, "epsilon") as components:
        shutil.copytree(components, folder)
    for component, model in _components(folder).items():
        name = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        specs = [TensorSpec(key, "F16", tuple(value.shape)) for key, value in model.state_dict().items()]
        _write_noise(folder / component / f"{name}.safetensors", specs)
    return folder


def _components(folder: Path) -> dict[str, Any]:
    """The networks of a pipeline on the meta device: shapes without weights."""
    import diffusers
    import torch
    import transformers

    index = json.loads((folder / "model_index.json").read_text())
    models = {}
    with torch.device("meta"):
        for component in ("unet", "vae", "text_encoder", "text_encoder_2"):
            if component in index:
                library, name = index[component]
                kind = getattr({"diffusers": diffusers, "transformers": transformers}[library], name)
                config = json.loads((folder / component / "config.json").read_text())
                from_diffusers = library == "diffusers"
                models[component] = (
                    kind.from_config(config) if from_diffusers else kind(kind.config_class(**config))
                )
    return models


def _write_noise(path: Path, specs: Sequence[TensorSpec]) -> None:
    count = max(spec.nbytes for spec in specs) // 2
    noise = (np.random.default_rng(0).standard_normal(count, np.float32) * 0.03).astype(np.float16)
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            writer.write(spec.name, noise[: spec.nbytes // 2].reshape(spec.shape))


def measure(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a program and watch it.

    Args:
        arguments: its command line.
        environment: of the program; this process's own where it is None.

    Raises:
        subprocess.CalledProcessError: it failed; its stderr is printed.
    """
    peak, before = 0, _cpu_of_children()
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        ) as process:
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


def programs(source: Path, out: Path) -> dict[str, list[str]]:
    """The command lines that are compared on a source, by what the table calls them."""
    convert = [sys.executable, "-c", LINZOO, "convert", str(source), str(out), "-q"]
    commands = {
        "cp": ["cp", "-r", str(source), str(out)],
        "linzoo convert": convert,
        "linzoo convert --init random": [*convert, "--init", "random"],
    }
    if source.is_dir():
        commands["diffusers load + save"] = [sys.executable, "-c", DIFFUSERS, str(source), str(out)]
    return commands


def benchmark(size: str, folder: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """Measure every program on both forms of one size."""
    variant = build_registry(entry_points=False).variants.get_value(size)
    for form in ("file", "pipeline"):
        place = folder / f"{size}-{form}"
        if form == "file":
            write_checkpoint(place.with_suffix(".safetensors"), component_config(variant, "unet"))
            place = place.with_suffix(".safetensors")
        else:
            write_pipeline(place, variant)
        for name, command in programs(place, folder / "out").items():
            row = {"size": size, "form": form, "program": name, "mb": round(_size(place) / 1e6)}
            yield row | _best(command, folder / "out", repeats)
        _remove(place)


def _best(command: Sequence[str], out: Path, repeats: int) -> dict[str, Any]:
    """The shortest time and the largest memory of all repeats."""
    runs = []
    for _ in range(repeats):
        os.sync()
        runs.append(measure(command))
        _remove(out)
    return {
        "anonymous_mb": round(max(run.anonymous for run in runs) / 1e6),
        "seconds": round(min(run.seconds for run in runs), 2),
        "cpu_seconds": round(min(run.cpu for run in runs), 2),
    }


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def run(
    sizes: Sequence[str], repeats: int, folder: Path | None, out: Path, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure both forms of every size; the files lie in ``folder`` meanwhile, or in the temporary folder."""
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for size in sizes:
            for row in benchmark(size, Path(temporary), repeats):
                say(f"{size} {row['form']}  {row['program']}: {row['seconds']} s")
                rows.append(row)
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as it stands in docs/convert.md."""
    copied = {(row["size"], row["form"]): row["seconds"] for row in rows if row["program"] == "cp"}
    lines = [
        "| source | program | peak anonymous memory | time | against cp | CPU time |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row["seconds"] / copied[row["size"], row["form"]]
        lines.append(
            f"| {row['size']} {row['form']}, {row['mb']:,} MB | {row['program']} | {row['anonymous_mb']:,} MB"
            f" | {row['seconds']:.1f} s | {ratio:.2f} | {row['cpu_seconds']:.1f} s |"
        )
    return "\n".join(lines)
