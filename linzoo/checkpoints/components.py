"""The component configs that a variant bundles, so that a single file works without a network."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.vocabulary import write_clip_vocabulary
from linzoo.plugin import thaw

if TYPE_CHECKING:
    from linzoo.plugin import PredictionType, Variant


def component_config(variant: Variant, component: str) -> dict[str, Any]:
    """Return the bundled config of one component (``unet``, ``vae``, ``scheduler``, …) with the variant's overrides.

    Raises:
        CheckpointError: the variant bundles no such component.
    """
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    return _with_overrides(variant, variant.components.locate() / component / name)


@contextlib.contextmanager
def component_folder(variant: Variant, prediction_type: PredictionType) -> Iterator[Path]:
    """Lay out a folder for ``from_single_file(path, config=folder)``: every config and tokenizer, and no weights.

    The folder is temporary. Scheduler and UNet are set to the prediction type and to the size that goes with it; a
    tokenizer folder that holds no vocabulary of its own gets CLIP's.

    Raises:
        CheckpointError: a config is missing or is no JSON object.
    """
    bundled = variant.components.locate()
    with tempfile.TemporaryDirectory(prefix="linzoo-components-") as name:
        folder = Path(name)
        for source in sorted(
            each for each in bundled.rglob("*") if each.is_file() and each.suffix != ".safetensors"
        ):
            target = folder / source.relative_to(bundled)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".json" and source.name != "vocab.json":
                _write_json(target, _with_overrides(variant, source))
            else:
                target.write_bytes(source.read_bytes())
        for tokenizer in folder.glob("tokenizer*"):
            if not any((tokenizer / file).exists() for file in ("vocab.json", "tokenizer.json")):
                write_clip_vocabulary(tokenizer)
        _set_prediction(folder, variant, prediction_type)
        yield folder


def _set_prediction(folder: Path, variant: Variant, prediction_type: PredictionType) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    _write_json(scheduler, {**read_json(scheduler), "prediction_type": prediction_type})
    if size := variant.native_size.get(prediction_type):
        unet = folder / "unet" / "config.json"
        levels = len(read_json(folder / "vae" / "config.json")["block_out_channels"])
        _write_json(unet, {**read_json(unet), "sample_size": size // 2 ** (levels - 1)})


def _with_overrides(variant: Variant, file: Path) -> dict[str, Any]:
    """A bundled JSON file with the variant's overrides for its component (for the root, ``model_index``)."""
    component = "model_index" if file.name == "model_index.json" else file.parent.name
    is_config = file.name in {"model_index.json", "config.json", "scheduler_config.json"}
    overrides = thaw(variant.component_overrides.get(component, {})) if is_config else {}
    return {**read_json(file), **overrides}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
