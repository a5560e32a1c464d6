"""What is shipped: a diffusers folder, the same as one LDM-layout file, a UNet-only file, an image-text encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from linzoo_recipes.mini import export, models, record
from linzoo_recipes.mini.clip_model import clip
from linzoo_recipes.mini.files import write_json
from linzoo_recipes.mini.sheet import draw, save_sheet
from linzoo_recipes.mini.tokenizer import train_tokenizer
from linzoo_recipes.mini.train_unet import fresh_teacher
from PIL import Image
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `record.export` writes it, of untrained networks and made-up logs."""
    out = tmp_path_factory.mktemp("out")
    tokenizer = train_tokenizer(["red apple, 3d emoji"], out / "tokenizer", models.TEXT_TOKENS, merges=10)
    for stage in record.STAGES:
        (out / stage).mkdir()
        lines = [{"step": step, "loss": 1 / step, "seconds_per_step": 0.5} for step in range(1, 251)]
        (out / stage / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(out / "vae" / "report.json", {"psnr_db": 30.0, "scaling_factor": 0.5})
    recall = {"recall_at_1": 0.125, "recall_at_5": 0.5, "style": 0.75, "core_name": 1.0}
    measured = {"pictures": 8, "candidates": 20, "core_pictures": 4, **recall}
    write_json(out / "clip" / "report.json", {"originals": measured, "reconstructions": measured})
    (out / "data").mkdir()
    write_json(out / "data" / "pictures.json", [{"name": "red apple", "style": "3d"}])
    torch.manual_seed(0)
    models.vae().save_pretrained(out / "vae" / "model")
    vae = AutoencoderKL.from_pretrained(out / "vae" / "model")
    vae.register_to_config(scaling_factor=0.5)
    encoder = clip(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    teacher, finetuned = fresh_teacher(tokenizer, 0), fresh_teacher(tokenizer, 1)
    record.export(out, out / "weights", vae, teacher, finetuned, encoder, tokenizer)
    return out / "weights"


@pytest.fixture(scope="module")
def from_folder(shipped: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(shipped / record.TEACHER).to(dtype=torch.float32)


@pytest.fixture(scope="module")
def from_file(shipped: Path) -> StableDiffusionPipeline:
    path = str(shipped / record.SINGLE_FILE)
    return StableDiffusionPipeline.from_single_file(path, config=str(shipped / record.TEACHER)).to(
        dtype=torch.float32
    )


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_the_single_file_holds_the_folders_tensors_bit_for_bit(
    from_folder: StableDiffusionPipeline, from_file: StableDiffusionPipeline, part: str
) -> None:
    one, other = (getattr(pipe, part).state_dict() for pipe in (from_folder, from_file))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_both_draw_the_same_picture(
    from_folder: StableDiffusionPipeline, from_file: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linzoo_recipes.mini.sheet.STEPS", 2)
    one, other = (np.asarray(draw(pipe, ["red apple"], [7])[0]) for pipe in (from_folder, from_file))
    assert one.shape == (128, 128, 3)
    assert (one == other).all()


def test_256_pixels_work_too(from_folder: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linzoo_recipes.mini.sheet.STEPS", 1)
    assert draw(from_folder, ["red apple"], [7], size=256)[0].size == (256, 256)


def test_everything_is_half_precision_and_in_ldm_names(shipped: Path) -> None:
    tensors = load_file(shipped / record.SINGLE_FILE)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert tensors["model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"].shape == (
        32,
        32,
    )
    assert tensors["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (80, 80, 1, 1)
    assert "first_stage_model.decoder.up.3.upsample.conv.weight" in tensors
    assert "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight" in tensors
    prefix = "cond_stage_model.transformer.text_model."
    assert tensors[f"{prefix}embeddings.token_embedding.weight"].shape[1] == models.TEXT_WIDTH
    known = ("model.diffusion_model.", "first_stage_model.", prefix)
    assert all(name.startswith(known) for name in tensors)


def test_the_text_encoder_is_written_for_old_transformers_too(shipped: Path) -> None:
    names = load_file(shipped / record.TEACHER / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in names)
    found = {path.name for path in (shipped / record.TEACHER / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= found


def test_no_file_names_a_folder_of_the_machine_that_trained(shipped: Path) -> None:
    written = [path for path in shipped.rglob("*") if path.is_file()]
    assert not [path.name for path in written if str(shipped.parent).encode() in path.read_bytes()]


def test_the_finetune_file_is_a_whole_unet_of_the_same_structure(shipped: Path) -> None:
    whole, tuned = load_file(shipped / record.SINGLE_FILE), load_file(shipped / record.FINETUNE_FILE)
    assert {name: value.shape for name, value in tuned.items()} == {
        name: value.shape for name, value in whole.items() if name.startswith("model.diffusion_model.")
    }
    assert not torch.equal(
        tuned["model.diffusion_model.out.2.weight"], whole["model.diffusion_model.out.2.weight"]
    )
    unet = UNet2DConditionModel.from_single_file(
        str(shipped / record.FINETUNE_FILE), config=str(shipped / record.TEACHER), subfolder="unet"
    )
    assert torch.equal(unet.conv_out.weight, tuned["model.diffusion_model.out.2.weight"])


def test_exporting_again_gives_the_same_bytes(shipped: Path, tmp_path: Path) -> None:
    export.export_single_file(shipped / record.TEACHER, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (shipped / record.SINGLE_FILE).read_bytes()


def test_the_image_text_encoder_is_shipped_whole_and_in_half_precision(shipped: Path) -> None:
    tensors = load_file(shipped / record.CLIP / "model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert {name.split(".")[0] for name in tensors} == {
        "logit_scale",
        "text_model",
        "text_projection",
        "vision_model",
        "visual_projection",
    }


def test_all_weights_together_stay_under_27_megabytes() -> None:
    special = (2048, 2046, 2047)
    parts = {
        "unet": models.unet(),
        "vae": models.vae(),
        "text": models.text_encoder(*special),
        "clip": clip(*special),
    }
    count = {name: sum(value.numel() for value in part.state_dict().values()) for name, part in parts.items()}
    assert 2 * (3 * count["unet"] + 2 * (count["vae"] + count["text"]) + count["clip"]) < 26.5e6


def test_the_record_has_figures_and_a_thinned_log(shipped: Path) -> None:
    rows = (shipped / "losses.csv").read_text().splitlines()
    assert rows[0] == "stage,step,loss,seconds_per_step"
    assert 4 * 100 <= len(rows) <= 4 * 130
    assert rows[-1].startswith("clip,250,")
    text = (shipped / "TRAINING.md").read_text()
    assert "30.00 dB" in text
    assert "| unet | 250 | 0.500 | 2 |" in text
    assert "8 held-out originals: own caption first among 20 12.5%, among the first five 50.0%" in text
    assert (shipped / "ART-LICENSES.md").exists()


def test_a_sheet_is_a_grid_of_labelled_pictures(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (128, 128), colour) for colour in ("red", "green", "blue")]
    save_sheet(tmp_path / "sheet.png", pictures, ["a", "b", "c"], columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (256, 2 * (128 + 14))
        colours = sheet.convert("RGB")
        assert colours.getpixel((130, 2)) == (0, 128, 0)
        assert colours.getpixel((2, 144)) == (0, 0, 255)


def test_prefixing_twice_changes_nothing() -> None:
    once = export.prefixed_text({"embeddings.x": torch.zeros(1)})
    assert list(once) == ["text_model.embeddings.x"]
    assert list(export.prefixed_text(once)) == list(once)
