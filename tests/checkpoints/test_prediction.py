"""Each rung of the evidence ladder, what goes before what, and when there is no answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import raw_header, unet_shapes, write_json, write_sparse
from unet_configs import UNETS

from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.ldm import LDM_PREFIX
from linzoo.registry import Registry

PROBE = f"{LDM_PREFIX}output_blocks.11.1.transformer_blocks.0.norm1.bias"
SIDECAR_V = "model:\n  params:\n    parameterization: v\n"
SIDECAR = "model:\n  params:\n    linear_start: 0.00085\n"


def single_file(
    path: Path, name: str = "sd21", *, spread: float = 0.0, extra: Any = None, **metadata: str
) -> Path:
    """An LDM file whose probed bias has this standard deviation."""
    shapes = unet_shapes(name, "ldm") | (extra or {})
    write_sparse(path, shapes, metadata={key.replace("__", "."): value for key, value in metadata.items()})
    if spread:
        raw, _ = raw_header(shapes, {}, {key.replace("__", "."): value for key, value in metadata.items()})
        bias = np.tile(np.array([spread, -spread], np.float16), 160)
        with path.open("r+b") as file:
            file.seek(8 + len(raw) + _offset(shapes, PROBE))
            file.write(bias.tobytes())
    return path


def _offset(shapes: dict[str, tuple[int, ...]], wanted: str) -> int:
    import math

    names = list(shapes)
    return sum(2 * math.prod(shapes[name]) for name in names[: names.index(wanted)])


def folder(path: Path, scheduler: dict[str, Any], name: str = "sd21") -> Path:
    write_json(path / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    write_json(path / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **UNETS[name]})
    write_sparse(path / "unet" / "diffusion_pytorch_model.safetensors", unet_shapes(name, "diffusers"))
    return path


def answer(found: Inspection) -> tuple[str | None, str, str]:
    """Prediction type, confidence, and the rung that decided."""
    rungs = [each.source for each in found.evidence if each.about == "prediction_type" and each.says]
    return found.prediction_type, found.confidence, rungs[0] if rungs else ""


def test_rung_1_the_flag(registry: Registry, tmp_path: Path) -> None:
    path = single_file(tmp_path / "x.safetensors", modelspec__prediction_type="epsilon")
    found = inspect(path, registry=registry, prediction_type="v_prediction")
    assert answer(found) == ("v_prediction", "high", "flag")  # the variant is high, the flag certain
    assert found.native_size == 768
    assert "the evidence on the prediction type disagrees (epsilon, v_prediction)" in found.problems[0]


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"prediction_type": "v_prediction"}, ("v_prediction", "high", "config")),
        ({"prediction_type": "epsilon"}, ("epsilon", "high", "config")),
        ({"beta_start": 0.00085}, ("epsilon", "high", "config")),
        ({"prediction_type": "flow"}, (None, "none", "")),
    ],
)
def test_rung_2_the_configs_of_a_folder(
    scheduler: dict[str, Any], expected: tuple[Any, ...], registry: Registry, tmp_path: Path
) -> None:
    found = inspect(folder(tmp_path, scheduler), registry=registry)
    assert answer(found) == expected
    assert found.layout == "diffusers-folder"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SIDECAR_V, "v_prediction"),
        (SIDECAR, "epsilon"),
        ("model: {params: {parameterization: x0}}", "sample"),
        ("model: {params: {parameterization: eps}}", "epsilon"),
        ("model: {params: {parameterization: flow}}", None),
        ("just text", None),
        ("model: {", None),
        ("!!python/object/apply:os.system ['true']", None),
        ("", None),
    ],
)
def test_rung_3_a_sidecar(text: str, expected: str | None, registry: Registry, tmp_path: Path) -> None:
    path = single_file(tmp_path / "v2.safetensors")
    (tmp_path / "v2.yaml").write_text(text)
    found = inspect(path, registry=registry)
    assert found.prediction_type == expected
    sidecar = next(each for each in found.evidence if each.source == "sidecar")
    assert sidecar.says == expected
    if expected is None:
        assert "v2.yaml beside the file cannot be used" in sidecar.detail


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"modelspec__prediction_type": "v"}, "v_prediction"),
        ({"modelspec__prediction_type": "epsilon"}, "epsilon"),
        ({"modelspec__prediction_type": "flow"}, None),
        ({"modelspec__architecture": "stable-diffusion-v2-768-v"}, "v_prediction"),
        ({"modelspec__architecture": "stable-diffusion-v2-512"}, "epsilon"),
        ({"modelspec__architecture": "stable-diffusion-xl-v1-base"}, None),
        ({"ss_v_parameterization": "True"}, "v_prediction"),
        ({"ss_v_parameterization": "False"}, "epsilon"),
        ({"ss_v_parameterization": "None"}, None),
    ],
)
def test_rung_4_metadata(
    metadata: dict[str, str], expected: str | None, registry: Registry, tmp_path: Path
) -> None:
    found = inspect(single_file(tmp_path / "x.safetensors", **metadata), registry=registry)
    assert found.prediction_type == expected
    assert found.confidence == ("high" if expected else "none")


def test_rung_6_markers(registry: Registry, tmp_path: Path) -> None:
    noob = single_file(tmp_path / "noob.safetensors", "sdxl", extra={"v_pred": (0,), "ztsnr": (0,)})
    found = inspect(noob, registry=registry)
    assert (found.variant, *answer(found)) == ("sdxl", "v_prediction", "high", "marker")
    assert found.native_size == 1024
    assert "zero terminal SNR (marker tensor 'ztsnr')" in found.problems[0]
    cosxl = single_file(tmp_path / "cosxl.safetensors", "sdxl", extra={"edm_vpred.sigma_max": ()})
    assert answer(inspect(cosxl, registry=registry)) == ("v_prediction", "high", "marker")
    playground = single_file(
        tmp_path / "pg.safetensors", "sdxl", extra=dict.fromkeys(("edm_mean", "edm_std"), (1, 4, 1, 1))
    )
    found = inspect(playground, registry=registry)
    assert (found.variant, found.prediction_type) == ("sdxl", None)
    assert "EDM preconditioning, neither epsilon nor v" in found.question()


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("where", ["config", "sidecar", "metadata"])
def test_what_is_said_and_not_understood_is_never_overruled_by_an_assumption(
    name: str, where: str, registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    if where == "config":
        path = folder(tmp_path, {"prediction_type": "flow_prediction"}, name)
    else:
        said = {"modelspec.prediction_type": "flow"} if where == "metadata" else {}
        write_sparse(path, unet_shapes(name, "ldm"), metadata=said)
    if where == "sidecar":
        path.with_suffix(".yaml").write_text("model: {params: {parameterization: flow}}")
    found = inspect(path, registry=registry)
    assert (found.variant, *answer(found)) == (name, None, "none", "")
    assert "flow" in found.question()


def test_zero_terminal_snr_in_metadata_and_configs(registry: Registry, tmp_path: Path) -> None:
    path = single_file(
        tmp_path / "x.safetensors", "sd15", ss_zero_terminal_snr="True", ss_v_parameterization="True"
    )
    assert "metadata 'ss_zero_terminal_snr'" in inspect(path, registry=registry).problems[0]
    path = folder(tmp_path / "f", {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, "sd15")
    assert "'rescale_betas_zero_snr'" in inspect(path, registry=registry).problems[0]


@pytest.mark.parametrize(
    ("spread", "expected", "confidence"),
    [
        (0.15, "v_prediction", "medium"),
        (0.12, "v_prediction", "medium"),
        (0.10, None, "none"),
        (0.08, None, "none"),
        (0.04, "epsilon", "medium"),
        (np.nan, None, "none"),
        (0.0, None, "none"),
    ],
)
def test_rung_7_the_value_of_one_tensor(
    spread: float, expected: str | None, confidence: str, registry: Registry, tmp_path: Path
) -> None:
    found = inspect(single_file(tmp_path / "x.safetensors", spread=spread), registry=registry)
    assert (found.prediction_type, found.confidence) == (expected, confidence)
    probe = found.evidence[-1]
    assert probe.source == "value"
    assert "a heuristic" in probe.detail
    if spread in (0.10, 0.08):
        assert (probe.confidence, probe.says) == ("low", "v_prediction" if spread == 0.10 else "epsilon")
        assert "too near the threshold to decide" in found.question()


def test_the_value_rung_is_for_text_to_image_alone(registry: Registry, tmp_path: Path) -> None:
    found = inspect(
        single_file(tmp_path / "x.safetensors", "sd21-instruct-pix2pix", spread=0.15), registry=registry
    )
    assert (found.variant, found.prediction_type) == ("sd21-instruct-pix2pix", None)
    assert all(evidence.source != "value" for evidence in found.evidence)


def test_earlier_rungs_go_before_later_ones(registry: Registry, tmp_path: Path) -> None:
    path = single_file(
        tmp_path / "x.safetensors", spread=0.15, extra={"v_pred": (0,)}, modelspec__prediction_type="epsilon"
    )
    assert answer(inspect(path, registry=registry)) == ("epsilon", "high", "metadata")
    (tmp_path / "x.yaml").write_text(SIDECAR_V)
    assert answer(inspect(path, registry=registry)) == ("v_prediction", "high", "sidecar")


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd21-inpaint"])
def test_the_default_says_that_it_is_an_assumption(name: str, registry: Registry, tmp_path: Path) -> None:
    found = inspect(single_file(tmp_path / "x.safetensors", name), registry=registry)
    assert answer(found) == ("epsilon", "medium", "default")
    assert "a file trained otherwise and without a marker looks the same" in found.evidence[-1].detail
