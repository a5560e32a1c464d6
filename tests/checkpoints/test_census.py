"""What lies in a checkpoint besides the UNet, and what is odd about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import unet_shapes, write_sparse

from linzoo.checkpoints.detection import inspect
from linzoo.checkpoints.inspection import Inspection
from linzoo.registry import Registry

UNET = unet_shapes("sd15", "ldm")
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
BESIDES = {
    "model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
    "alphas_cumprod": (1000,),
}


def look(
    path: Path, registry: Registry, dtypes: dict[str, str] | None = None, **extra: tuple[int, ...]
) -> Inspection:
    return inspect(
        write_sparse(path / "x.safetensors", UNET | BESIDES | extra, dtypes=dtypes), registry=registry
    )


def test_components_are_counted(registry: Registry, tmp_path: Path) -> None:
    found = look(tmp_path, registry, {"alphas_cumprod": "F32", list(BESIDES)[3]: "I64"})
    assert found.variant == "sd15"
    assert {part: count.tensors for part, count in found.components.items()} == {
        "unet": 686, "unet_ema": 1, "vae": 1, "text_encoder": 2, "other": 1,
    }  # fmt: skip
    assert (found.parameters, found.dtype) == (859_520_964, "F16")
    assert found.components["unet"].nbytes == 2 * 859_520_964
    assert found.components["text_encoder"].dtypes == {"F16": 1, "I64": 1}
    assert found.problems == ("holds a second copy of the UNet (EMA, 1 tensors); linzoo reads the other one",)


@pytest.mark.parametrize(
    ("dtypes", "message"),
    [
        ({list(BESIDES)[3]: "F32"}, "position_ids' is F32 where whole numbers belong"),
        (dict.fromkeys(UNET, "F8_E4M3"), "the UNet is stored in 8-bit floats (F8_E4M3)"),
        ({FIRST: "F32"}, "the UNet mixes dtypes: 685 F16, 1 F32"),
        ({FIRST: "I8"}, "the UNet holds I8 tensors, probably quantised"),
    ],
)
def test_oddities(dtypes: dict[str, str], message: str, registry: Registry, tmp_path: Path) -> None:
    assert any(message in problem for problem in look(tmp_path, registry, dtypes).problems)


def test_scaled_weights(registry: Registry, tmp_path: Path) -> None:
    problems = look(tmp_path, registry, scaled_fp8=(2,)).problems
    assert any("the weights are stored scaled" in problem for problem in problems)


def test_a_text_encoder_without_its_prefix(registry: Registry, tmp_path: Path) -> None:
    name = "cond_stage_model.transformer.embeddings.position_embedding.weight"
    problems = look(tmp_path, registry, **{name: (77, 768)}).problems
    assert any("named without 'text_model.'" in problem for problem in problems)


def test_json_has_what_the_issue_asks_for(registry: Registry, tmp_path: Path) -> None:
    data = look(tmp_path, registry).to_json()
    assert {"kind", "variant", "prediction_type", "confidence", "evidence", "problems"} <= set(data)
    assert (data["kind"], data["variant"], data["prediction_type"], data["confidence"]) == (
        "unet",
        "sd15",
        "epsilon",
        "medium",
    )
    assert data["evidence"][1] == {
        "about": "variant", "source": "structure", "says": "sd15", "confidence": "high",
        "detail": "686 of 686 tensors of sd15",
    }  # fmt: skip
    assert data["components"]["unet"]["dtypes"] == {"F16": 686}
