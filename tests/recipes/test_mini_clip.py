"""The image-text encoder: what it is held back, what counts as a negative, what it learns, and what it ships as."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from linzoo_recipes.mini import clip_data, clip_export, clip_report, loop, models, record, render, train_clip
from linzoo_recipes.mini.captions import caption
from linzoo_recipes.mini.clip_augment import augment
from linzoo_recipes.mini.clip_model import clip, image_features, random_patches, text_features
from linzoo_recipes.mini.render import STYLES, Pictures
from linzoo_recipes.mini.tokenizer import token_ids, train_tokenizer
from linzoo_recipes.mini.train_vae import to_model_range
from PIL import Image
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

CPU = torch.device("cpu")
NAMES = ["red apple", "violin", "ghost", "violin", "red apple"]
WORDS = ["3d", "flat", "flat", "3d", "noto"]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Five pictures: the thing gives the colour, the style the half that is painted."""
    pixels = np.full((5, 128, 128, 3), 255, np.uint8)
    colours = {"red apple": (200, 0, 0), "violin": (120, 60, 0), "ghost": (150, 150, 255)}
    halves = {"3d": np.s_[:64], "flat": np.s_[64:], "noto": np.s_[:, :64]}
    for picture, name, word in zip(pixels, NAMES, WORDS, strict=True):
        picture[halves[word]] = colours[name]
    return Pictures(pixels, NAMES, WORDS)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> CLIPTokenizer:
    return train_tokenizer(NAMES, tokenizer_folder, models.TEXT_TOKENS, merges=10)


@pytest.fixture(scope="module")
def untrained(tokenizer: CLIPTokenizer) -> CLIPModel:
    torch.manual_seed(0)
    return clip(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id).eval()


@pytest.fixture(scope="module")
def data(pictures: Pictures, tokenizer: CLIPTokenizer) -> clip_data.Described:
    return clip_data.described(pictures, 255 - pictures.pixels, tokenizer)


def test_one_pair_in_twenty_is_held_out_and_its_name_is_trained_in_another_style() -> None:
    pairs = [(f"thing {number}", style) for number in range(300) for style in STYLES]
    names, styles = zip(*pairs, strict=True)
    out = clip_data.held_out(names, styles)
    assert 0.03 < sum(out) / len(out) < 0.07
    trained = {name for name, held in zip(names, out, strict=True) if not held}
    assert {name for name, held in zip(names, out, strict=True) if held} <= trained


def test_the_held_out_pairs_do_not_depend_on_the_others() -> None:
    names = [f"thing {number}" for number in range(100)] * 2
    styles = ["3d"] * 100 + ["flat"] * 100
    out = clip_data.held_out(names, styles)
    assert clip_data.held_out(names[::-1], styles[::-1]) == out[::-1]
    assert any(out)
    assert not any(clip_data.held_out(names[:100], styles[:100]))


def test_texts_that_are_true_too_are_no_negatives(data: clip_data.Described) -> None:
    places = torch.tensor([0, 0, 1, 2, 4])
    texts = torch.tensor(
        [clip_data.CAPTION, clip_data.NAME, clip_data.STYLE, clip_data.CAPTION, clip_data.CAPTION]
    )
    assert clip_data.also_true(data, places, texts).int().tolist() == [
        [0, 1, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 1, 0, 0, 0],
    ]


def test_a_duplicate_costs_nothing_and_a_wrong_text_does() -> None:
    logits = torch.tensor([[9.0, 9.0, -9.0], [9.0, 9.0, -9.0], [-9.0, -9.0, 9.0]])
    same = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    assert float(train_clip.matching_loss(logits, same)) == pytest.approx(0, abs=1e-6)
    assert float(train_clip.matching_loss(logits, torch.zeros_like(same))) > 0.4


def test_a_batch_pairs_each_picture_with_the_same_thing_in_another_style(
    pictures: Pictures, tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_data, "NAME_ALONE", 0.0)
    monkeypatch.setattr(clip_data, "STYLE_ALONE", 0.0)
    marked = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], pictures.pixels.shape)
    data = clip_data.described(Pictures(marked, NAMES, WORDS), marked, tokenizer)
    batch = clip_data.draw(data, 32, torch.Generator().manual_seed(0))
    first, second = batch.pixels[:, 0, 0, 0].reshape(2, 32).tolist()
    assert all(NAMES[one] == NAMES[other] for one, other in zip(first, second, strict=True))
    assert all((one == other) == (NAMES[one] == "ghost") for one, other in zip(first, second, strict=True))
    assert batch.ids.shape[0] == 64
    assert batch.ids.shape[1] < models.TEXT_TOKENS
    assert (batch.ids == tokenizer.eos_token_id).any(dim=1).all()


def test_held_out_pictures_are_never_drawn(
    pictures: Pictures, tokenizer: CLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_data, "held_out", lambda *_: [True, False, False, False, False])
    marked = np.broadcast_to(np.arange(5, dtype=np.uint8)[:, None, None, None], pictures.pixels.shape)
    data = clip_data.described(Pictures(marked, NAMES, WORDS), marked, tokenizer)
    seen = Counter(clip_data.draw(data, 64, torch.Generator().manual_seed(0)).pixels[:, 0, 0, 0].tolist())
    assert sorted(seen) == [1, 2, 3, 4]


def test_cutting_a_batch_short_changes_no_text(untrained: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    ids = torch.tensor(token_ids(tokenizer, ["red apple", "ghost"]))
    longest = 1 + int((ids == tokenizer.eos_token_id).int().argmax(dim=1).max())
    torch.testing.assert_close(text_features(untrained, ids), text_features(untrained, ids[:, :longest]))


def test_augmenting_moves_and_tints_but_keeps_white_bright() -> None:
    white = torch.ones(4, 3, 32, 32)
    changed = augment(white, torch.Generator().manual_seed(0))
    assert changed.shape == white.shape
    assert changed.mean(dim=(1, 2, 3)).min() > 0.7
    assert not torch.equal(changed[0], changed[1])
    assert torch.equal(changed, augment(white, torch.Generator().manual_seed(0)))


def test_all_patches_in_any_order_are_the_whole_picture(untrained: CLIPModel) -> None:
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    order = random_patches(2, 64, torch.Generator().manual_seed(1))
    whole = image_features(untrained, pixels)
    assert whole.shape == (2, 128)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(image_features(untrained, pixels, order), whole, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(image_features(untrained, pixels, order[:, :8]), whole, atol=1e-3)


def test_reconstructions_are_computed_once(pictures: Pictures, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "clip" / "reconstructions.npy"
    soft = clip_data.reconstruct(models.vae(), pictures.pixels, path, CPU)
    assert soft.shape == pictures.pixels.shape
    assert soft.dtype == np.uint8
    again = clip_data.reconstruct(None, pictures.pixels, path, CPU)
    assert (again == soft).all()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_training_lowers_the_loss_and_measures_the_held_out(
    pictures: Pictures, tokenizer: CLIPTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_clip, "BATCH", 8)
    held = [False, False, False, False, True]
    for module in (clip_data, clip_report):
        monkeypatch.setattr(module, "held_out", lambda *_: held)
    plan = loop.Plan(steps=20, lr=1e-3, warmup=5, ema=0.5, log_every=1)
    train_clip.train_clip(pictures, pictures.pixels, tokenizer, tmp_path, CPU, plan)
    losses = [line["loss"] for line in loop.read_log(tmp_path)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    report = json.loads((tmp_path / "report.json").read_text())
    for what in ("originals", "reconstructions"):
        assert report[what]["pictures"] == report[what]["core_pictures"] == 1
        assert report[what]["candidates"] == 5
        assert 0 <= report[what]["recall_at_1"] <= report[what]["recall_at_5"] == 1


def test_the_folder_loads_with_transformers_and_normalises_by_itself(
    untrained: CLIPModel, pictures: Pictures, tokenizer_folder: Path, tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    clip_export.export_clip(untrained, tokenizer_folder, tmp_path / "clip")
    model, processor = loaded(tmp_path / "clip")
    assert next(untrained.parameters()).dtype == model.dtype == torch.float32
    ready = processor(
        text=NAMES, images=[*map(Image.fromarray, pictures.pixels)], return_tensors="pt", padding=True
    )
    torch.testing.assert_close(ready["pixel_values"], to_model_range(pictures.pixels, CPU))
    torch.testing.assert_close(
        text_features(model, ready["input_ids"]),
        text_features(model, torch.tensor(token_ids(tokenizer, NAMES))),
    )
    large = processor(images=[Image.new("RGB", (256, 256), "white")], return_tensors="pt")
    torch.testing.assert_close(large["pixel_values"], torch.ones(1, 3, 128, 128))


def loaded(folder: Path) -> tuple[CLIPModel, CLIPProcessor]:
    return CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)


@torch.no_grad()
def test_the_shipped_encoder_knows_what_the_sample_sheet_shows() -> None:
    """samples.png: `record.CONCEPTS` in every style as the teacher draws them, each above its label."""
    weights = Path(str(resources.files("linzoo_mini") / "weights"))
    model, processor = loaded(weights / record.CLIP)
    with Image.open(weights / "samples.png") as sheet:
        colours = sheet.convert("RGB")
    side, pitch = render.SIZE, sheet.height // (len(STYLES) + 1)  # the fine-tune's row is the last one
    cells = [(column, row) for row in range(len(STYLES)) for column in range(len(record.CONCEPTS))]
    drawn = [colours.crop((x * side, y * pitch, (x + 1) * side, y * pitch + side)) for x, y in cells]
    texts = [caption(record.CONCEPTS[x], STYLES[y]) for x, y in cells]
    ready = processor(text=texts, images=drawn, return_tensors="pt", padding=True)
    fit = image_features(model, ready["pixel_values"]) @ text_features(model, ready["input_ids"]).T
    best = [cells[number] for number in fit.argmax(dim=1).tolist()]
    names, styles = (
        np.mean([one[part] == other[part] for one, other in zip(best, cells, strict=True)])
        for part in range(2)
    )
    assert names > 0.85
    assert styles > 0.5  # one in six by chance; 3d is often taken for gradient, and noto for blob or firefox
    assert fit.diagonal().mean() > fit.mean() + 0.3
