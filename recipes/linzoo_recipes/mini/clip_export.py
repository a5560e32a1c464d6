"""The image-text encoder as it ships: one folder, in half precision, from which transformers loads all three parts."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import torch
from transformers import CLIPModel

from .files import write_json
from .render import SIZE

PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""Pictures are resized to 128 px (bicubic) where they are not that, and their levels mapped from 0..255 to -1..1."""


def export_clip(model: CLIPModel, tokenizer_folder: Path, folder: Path) -> None:
    """Write `folder` for CLIPModel, CLIPTokenizer and CLIPImageProcessor, thus CLIPProcessor; torchvision is not needed."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy.deepcopy(model).to(dtype=torch.float16).save_pretrained(partial)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, partial / name)
    write_json(partial / "preprocessor_config.json", PREPROCESSOR)
    settings = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    # transformers 5 loads in the dtype that the config says; half precision is for the file, not for computing on a CPU.
    write_json(partial / "config.json", {**settings, "dtype": "float32"})
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
