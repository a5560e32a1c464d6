from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from linzoo_recipes.mini.clip_export import export_clip
from linzoo_recipes.mini.clip_model import clip
from linzoo_recipes.mini.models import TEXT_TOKENS
from linzoo_recipes.mini.tokenizer import train_tokenizer
from photographs import photographs
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from linzoo.errors import PluginError
from linzoo.plugin.lazy import Resource
from linzoo.validation.encoders import clip as encoders
from linzoo.validation.encoders.clip import ClipEncoder, mini_clip
from linzoo.validation.encoders.pixels import resize, resize_and_crop
from linzoo.validation.errors import ValidationError

TEXTS = ["red apple, 3d emoji", "a much longer text " * 40, ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIP as mini's ships."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = train_tokenizer(["red apple, 3d emoji"], folder / "tokenizer", TEXT_TOKENS, merges=10)
    torch.manual_seed(0)
    model = clip(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    export_clip(model, folder / "tokenizer", folder / "clip")
    return folder / "clip"


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ClipEncoder:
    return ClipEncoder(folder, "cpu")


def test_embeddings_of_pictures_are_those_that_transformers_makes(folder: Path, encoder: ClipEncoder) -> None:
    pixels = photographs(200)[..., :160]
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    inputs = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt")
    with torch.no_grad():
        wanted = model.get_image_features(**inputs).pooler_output
    found = encoder.features(pixels)
    assert found.shape == (4, 128)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert (found - wanted).norm() / wanted.norm() < 0.01
    assert (found[0] - found[1]).norm() > 10 * (found - wanted).norm()


def test_embeddings_of_texts_are_those_that_transformers_makes(folder: Path, encoder: ClipEncoder) -> None:
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    alone = []
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=TEXT_TOKENS, return_tensors="pt")
        with torch.no_grad():
            alone.append(model.get_text_features(**ids).pooler_output[0])
    torch.testing.assert_close(encoder.texts(TEXTS), torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_pictures_together_are_seen_as_one_by_one(encoder: ClipEncoder) -> None:
    pixels = photographs(128)
    together = encoder.features(pixels)
    torch.testing.assert_close(
        torch.cat([encoder.features(each[None]) for each in pixels]), together, rtol=1e-4, atol=1e-5
    )


def test_what_is_no_clip_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="cannot be loaded as a CLIP"):
        ClipEncoder(tmp_path, "cpu")


def test_minis_own_is_loaded_from_its_package(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    package = tmp_path / "somewhere"
    package.mkdir()
    (package / "clip").symlink_to(folder)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(encoders, "_MINI", Resource("somewhere", "clip"))
    assert mini_clip("cpu").texts(["red apple"]).shape == (1, 128)
    (package / "clip").unlink()
    with pytest.raises(PluginError, match="does not hold 'clip'"):
        mini_clip("cpu")


def test_a_repository_is_cached_once_all_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert not encoders.vit_large_patch14_cached()
    repo = tmp_path / "models--openai--clip-vit-large-patch14"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (snapshot / "model.safetensors").touch()
    assert not encoders.vit_large_patch14_cached()
    (snapshot / "preprocessor_config.json").touch()
    assert encoders.vit_large_patch14_cached()
    assert not encoders.vit_large_patch14_336_cached()


@pytest.mark.parametrize("size", [(64, 64), (37, 91), (300, 150)])
def test_pictures_are_scaled_as_pillow_scales_them(size: tuple[int, int]) -> None:
    pixels = photographs(128)
    height, width = size
    for one, picture in zip(resize(pixels, height, width).flatten(0, 1), pixels.flatten(0, 1), strict=True):
        image = Image.fromarray(picture.numpy().astype(np.float32)).resize((width, height), Image.BICUBIC)
        unrounded = np.asarray(image).clip(0, 255)
        assert np.abs(one.numpy() - unrounded).max() < 0.501
    assert resize(pixels, 128, 128) is pixels


def test_the_middle_of_a_wide_picture_is_kept() -> None:
    pixels = torch.zeros(1, 3, 40, 100, dtype=torch.uint8)
    pixels[..., 30:70] = 200
    square = resize_and_crop(pixels, 20)
    assert square.shape == (1, 3, 20, 20)
    assert square[..., 2:-2].float().mean() == 200


def test_an_output_that_is_a_tensor_already_is_taken_as_it_is() -> None:
    embeddings: Any = torch.ones(2, 3)
    assert encoders._embeddings(embeddings) is embeddings
