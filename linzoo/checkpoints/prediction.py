"""What a UNet predicts (noise, velocity): a ladder of evidence, the most explicit rung first.

Shapes cannot tell, so the answer comes from whoever trained or packed the model. The rungs: the user's flag; configs of
a diffusers folder; a ``.yaml`` beside the file; metadata in the header; marker tensors; the value of one tensor; what
all published models of the variant do. Where none gives an answer, there is none: epsilon or v is never guessed silently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from linzoo.checkpoints.evidence import Confidence, Evidence, Source
from linzoo.checkpoints.source import Checkpoint
from linzoo.checkpoints.unet import open_unet
from linzoo.errors import CheckpointError

if TYPE_CHECKING:
    from linzoo.plugin import Fingerprint, PredictionType, Variant

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

_WORDS = {"eps": "epsilon", "epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction",
          "v-prediction": "v_prediction", "x0": "sample", "sample": "sample"}  # fmt: skip
_ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
_MAX_SIDECAR = 1_000_000
_EDM = frozenset({"edm_mean", "edm_std"})

_PROBE = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
_PROBE_THRESHOLD = 0.09
"""Above it an SD 2 UNet was trained on v: ComfyUI's rule, which its authors call unsure; checked on no fine-tunes here."""
_PROBE_MARGIN = 0.25


def prediction_evidence(
    checkpoint: Checkpoint, variant: Variant, flag: PredictionType | None
) -> list[Evidence]:
    """What the rungs have to say, in the order of the ladder; the last two are asked only when no other speaks."""
    seen = [_says("flag", flag, "given by --prediction-type", "certain")] if flag else []
    seen += _from_configs(checkpoint.configs)
    if checkpoint.path in checkpoint.files:  # one file, and no folder
        seen += _from_sidecar(checkpoint.path.with_suffix(".yaml"))
    seen += _from_metadata(checkpoint.metadata)
    seen += _from_markers(checkpoint.tensors)
    # Something that was said and not understood is no reason to assume the usual.
    return seen or list(_from_variant(checkpoint, variant))


def zero_terminal_snr(checkpoint: Checkpoint) -> str | None:
    """Where the checkpoint says that it was trained with zero terminal SNR, else None."""
    if "ztsnr" in checkpoint.tensors:
        return "marker tensor 'ztsnr'"
    if checkpoint.metadata.get("ss_zero_terminal_snr", "").lower() == "true":
        return "metadata 'ss_zero_terminal_snr'"
    if checkpoint.configs.get("scheduler", {}).get("rescale_betas_zero_snr"):
        return "scheduler/scheduler_config.json 'rescale_betas_zero_snr'"
    return None


def _says(source: Source, answer: str, detail: str, confidence: Confidence = "high") -> Evidence:
    return Evidence("prediction_type", source, detail, answer, confidence)


def _unclear(source: Source, detail: str) -> Evidence:
    return Evidence("prediction_type", source, detail)


def _from_configs(configs: Any) -> Iterator[Evidence]:
    if "scheduler" not in configs:
        return
    where, value = "scheduler/scheduler_config.json", configs["scheduler"].get("prediction_type")
    if value is None:
        yield _says(
            "config", "epsilon", f"{where} names no prediction type, which diffusers takes for epsilon"
        )
    elif value in PREDICTION_TYPES:
        yield _says("config", value, f"{where}: prediction_type {value}")
    else:
        yield _unclear("config", f"{where}: prediction_type {value!r}, which linzoo does not know")


def _from_sidecar(sidecar: Path) -> Iterator[Evidence]:
    """A yaml of the original code's form beside the file: without ``parameterization`` it means epsilon."""
    if not sidecar.is_file():
        return
    import yaml

    try:
        if sidecar.stat().st_size > _MAX_SIDECAR:
            raise ValueError("too large")
        params = yaml.safe_load(sidecar.read_text(encoding="utf-8"))["model"]["params"]
        word = params.get("parameterization", "eps")
        answer = _WORDS[word]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        yaml.YAMLError,
    ) as error:
        yield _unclear(
            "sidecar", f"{sidecar.name} beside the file cannot be used ({type(error).__name__}: {error})"
        )
        return
    said = "parameterization" in params
    yield _says(
        "sidecar", answer, f"{sidecar.name}: {'parameterization ' + word if said else 'no parameterization'}"
    )


def _from_metadata(metadata: Any) -> Iterator[Evidence]:
    word = metadata.get("modelspec.prediction_type", "")
    if word.lower() in _WORDS:
        yield _says("metadata", _WORDS[word.lower()], f"metadata modelspec.prediction_type: {word}")
    elif word:
        yield _unclear(
            "metadata", f"metadata modelspec.prediction_type: {word!r}, which linzoo does not know"
        )
    architecture = metadata.get("modelspec.architecture", "")
    if architecture in _ARCHITECTURES:
        yield _says(
            "metadata", _ARCHITECTURES[architecture], f"metadata modelspec.architecture: {architecture}"
        )
    trained = metadata.get("ss_v_parameterization", "").lower()
    if trained in {"true", "false"}:
        answer = "v_prediction" if trained == "true" else "epsilon"
        yield _says("metadata", answer, f"metadata ss_v_parameterization: {trained}")


def _from_markers(names: Collection[str]) -> Iterator[Evidence]:
    if "v_pred" in names:
        yield _says("marker", "v_prediction", "marker tensor 'v_pred'")
    if "edm_vpred.sigma_max" in names:
        yield _says("marker", "v_prediction", "marker tensor 'edm_vpred.sigma_max' (v under an EDM schedule)")
    if _EDM.issubset(names):
        detail = "marker tensors 'edm_mean', 'edm_std': EDM preconditioning, neither epsilon nor v"
        yield _unclear("marker", detail)


def _from_variant(checkpoint: Checkpoint, variant: Variant) -> Iterator[Evidence]:
    if len(variant.prediction_types) == 1:
        only = variant.prediction_types[0]
        detail = (
            f"assumed: published {variant.id} models predict {only}; a file trained otherwise and without a marker"
            " looks the same"
        )
        yield _says("default", only, detail, "medium")
    elif _is_sd2_text_to_image(variant.fingerprint):
        yield from _from_value(checkpoint, variant)


def _is_sd2_text_to_image(fingerprint: Fingerprint) -> bool:
    """The only UNets that the rule about one tensor's values was made for."""
    return (fingerprint.channels, fingerprint.in_channels, fingerprint.context_dim) == (320, 4, 1024)


def _from_value(checkpoint: Checkpoint, variant: Variant) -> Iterator[Evidence]:
    """The spread of one bias of the last self-attention: larger in SD 2 UNets that were trained on v."""
    try:
        spread = float(np.std(open_unet(checkpoint, variant).read(_PROBE).astype(np.float64)))
    except (KeyError, CheckpointError) as error:
        yield _unclear("value", f"'{_PROBE}' cannot be read ({error})")
        return
    seen = f"standard deviation {spread:.4f} of '{_PROBE}' (v above {_PROBE_THRESHOLD}; a heuristic)"
    if not np.isfinite(spread) or spread == 0:
        yield _unclear("value", f"{seen}: says nothing")
        return
    answer = "v_prediction" if spread > _PROBE_THRESHOLD else "epsilon"
    clear = abs(spread - _PROBE_THRESHOLD) >= _PROBE_MARGIN * _PROBE_THRESHOLD
    detail = seen if clear else f"{seen}: too near the threshold to decide"
    yield _says("value", answer, detail, "medium" if clear else "low")
