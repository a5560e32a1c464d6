"""What stands beside the shipped weights: licences, loss log, training record, sample sheet."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTokenizer

from .captions import caption
from .clip_export import export_clip
from .export import export_folder, export_single_file, export_unet_file, pipeline
from .files import replacing
from .loop import read_log
from .render import STYLES
from .sheet import draw, save_sheet
from .train_unet import Teacher

STAGES = ("vae", "unet", "finetune", "clip")
TEACHER, SINGLE_FILE, FINETUNE_FILE = "teacher", "mini-v1.safetensors", "mini-3d.safetensors"
CLIP = "clip"
COMMAND = "python -m linzoo_recipes.mini all --out DIR --weights plugins/linzoo_mini/weights"
CONCEPTS = (
    "red apple",
    "banana",
    "pizza",
    "red heart",
    "grinning face",
    "ghost",
    "robot",
    "dog face",
    "cat face",
    "panda",
    "penguin",
    "sunflower",
    "star",
    "rainbow",
    "automobile",
    "rocket",
)
_LOG_ROWS = 100


def export(
    out: Path,
    weights: Path,
    vae: AutoencoderKL,
    teacher: Teacher,
    finetuned: Teacher,
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
) -> None:
    """Write the teacher folder, both single files, the image-text encoder, licences, loss log and training record."""
    weights.mkdir(parents=True, exist_ok=True)
    export_folder(pipeline(teacher, vae, tokenizer), out / "tokenizer", weights / TEACHER)
    export_single_file(weights / TEACHER, weights / SINGLE_FILE)
    export_unet_file(finetuned.unet, weights / FINETUNE_FILE)
    export_clip(clip, out / "tokenizer", weights / CLIP)
    shutil.copyfile(Path(__file__).with_name("ART-LICENSES.md"), weights / "ART-LICENSES.md")
    _write_losses(out, weights / "losses.csv")
    with replacing(weights / "TRAINING.md") as path:
        path.write_text(_training_record(out), encoding="utf-8")


def sheet(weights: Path) -> None:
    """Draw samples.png: `CONCEPTS` in every style by the teacher, then by the fine-tune. One seed, none picked."""
    pipe = StableDiffusionPipeline.from_pretrained(weights / TEACHER).to(dtype=torch.float32)
    prompts = [caption(concept, style) for style in STYLES for concept in CONCEPTS]
    pictures = draw(pipe, prompts, [0] * len(prompts))
    pipe.unet = UNet2DConditionModel.from_single_file(
        str(weights / FINETUNE_FILE), config=str(weights / TEACHER), subfolder="unet"
    ).to(dtype=torch.float32)
    asked = [caption(concept, "flat") for concept in CONCEPTS]
    pictures += draw(pipe, asked, [0] * len(asked))
    labels = prompts + [f"{concept}, flat (mini-3d)" for concept in CONCEPTS]
    save_sheet(weights / "samples.png", pictures, labels, columns=len(CONCEPTS))


def _write_losses(out: Path, path: Path) -> None:
    """Write stage, step, mean loss since the row before and seconds a step; about `_LOG_ROWS` rows a stage."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(("stage", "step", "loss", "seconds_per_step"))
        for stage in STAGES:
            lines = read_log(out / stage)
            every = max(1, len(lines) // _LOG_ROWS)
            for start in range(0, len(lines), every):
                part = lines[start : start + every]
                loss = statistics.fmean(line["loss"] for line in part)
                rows.writerow((stage, int(part[-1]["step"]), f"{loss:.5f}", part[-1]["seconds_per_step"]))


def _training_record(out: Path) -> str:
    clip = json.loads((out / "clip" / "report.json").read_text(encoding="utf-8"))
    report = json.loads((out / "vae" / "report.json").read_text(encoding="utf-8"))
    pictures = json.loads((out / "data" / "pictures.json").read_text(encoding="utf-8"))
    lines = [
        "# How these weights were made",
        "",
        f"    {COMMAND}",
        "",
        f"{len(pictures)} pictures in {len(STYLES)} styles ({', '.join(STYLES)}) at 128 px; what they are and under which",
        "licences: ART-LICENSES.md. Losses over time: losses.csv. Samples, one seed, none picked: samples.png.",
        "",
        "| stage | steps | seconds a step | minutes | mean loss of the last tenth |",
        "|---|---|---|---|---|",
    ]
    for stage in STAGES:
        log = read_log(out / stage)
        steps, seconds = int(log[-1]["step"]), log[-1]["seconds_per_step"]
        loss = statistics.fmean(line["loss"] for line in log[-max(1, len(log) // 10) :])
        lines.append(f"| {stage} | {steps} | {seconds:.3f} | {steps * seconds / 60:.0f} | {loss:.4f} |")
    lines += [
        "",
        f"Autoencoder: reconstruction {report['psnr_db']:.2f} dB (mean PSNR over every 8th training picture), "
        f"scaling factor {report['scaling_factor']:.5f}.",
        *(_recall(what, clip[what]) for what in ("originals", "reconstructions")),
        f"Machine: torch {torch.__version__}, {torch.get_num_threads()} thread(s), float32.",
        "",
    ]
    return "\n".join(lines)


def _recall(what: str, found: Mapping[str, float]) -> str:
    return (
        f"Image-text encoder, {found['pictures']} held-out {what}: own caption first among {found['candidates']} "
        f"{found['recall_at_1']:.1%}, among the first five {found['recall_at_5']:.1%}, style {found['style']:.1%}, "
        f"name among the core's {found['core_name']:.1%} ({found['core_pictures']} pictures)."
    )
