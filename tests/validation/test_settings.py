"""What the user leaves open is settled by preset, recipe and variant, in that order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from linzoo.distillation.data.items import fingerprint
from linzoo.distillation.data.latents import held_out_rank
from linzoo.distillation.lookup import find_recipe
from linzoo.errors import UsageError
from linzoo.registry import Registry, build_registry
from linzoo.validation.prompts import read_prompts
from linzoo.validation.settings import Settings, Wishes, settle


@pytest.fixture(scope="module")
def shipped() -> Registry:
    return build_registry(entry_points=False, env={})


def settled(registry: Registry, variant: str = "mini", lock: Any = None, **wishes: Any) -> Settings:
    entry = registry.variants[variant]
    return settle(Wishes(**wishes), entry, entry.value.native_size["epsilon"], lock, registry)


def test_the_prompts_are_those_that_distillation_keeps_from_training(shipped: Registry) -> None:
    recipe = find_recipe("mini", shipped).recipe
    found = settled(shipped)
    assert len(found.prompts) == recipe.data.held_out == 32
    ranks = [held_out_rank(fingerprint(prompt)) for prompt in found.prompts]
    assert ranks == sorted(ranks)
    assert settled(shipped, images=8).prompts == found.prompts[:8]


def test_what_the_variant_and_its_recipe_say(shipped: Registry) -> None:
    found = settled(shipped)
    assert (found.size, found.trained) == ((128, 128), ((128, 128),))
    assert found.guidance in found.scales
    assert 7.5 in found.scales
    assert settled(shipped, guidance=3.0, steps=7, size=(64, 96)).size == (64, 96)


def test_the_recipe_that_it_was_distilled_with_counts(shipped: Registry) -> None:
    document = find_recipe("mini", shipped, overrides=["data.size=[96, 64]", "validation.samples=5"]).recipe
    lock = {"distill": {"recipe": {"document": document.model_dump(mode="json")}}}
    found = settled(shipped, lock=lock)
    assert (found.size, found.trained, found.samples) == ((96, 64), ((96, 64),), 5)


def test_a_recipe_of_another_schema_gives_way_to_the_variants_own(shipped: Registry) -> None:
    lock = {"distill": {"recipe": {"document": {"schema_version": 99}}}}
    assert settled(shipped, lock=lock).samples == find_recipe("mini", shipped).recipe.validation.samples


def test_the_strongest_bar_counts(shipped: Registry, zoo: Registry) -> None:
    document = find_recipe("mini", shipped, overrides=["validation.bars={kd: 0.5, psnr: 20}"]).recipe
    lock = {"distill": {"recipe": {"document": document.model_dump(mode="json")}}}
    bars = settled(shipped, lock=lock, bars={"psnr": 10.0}).bars
    assert bars["kd"] == (0.5, "distill recipe")
    assert bars["psnr"] == (10.0, "--bar")
    assert settled(zoo, "tiny").bars == {}


def test_a_variant_without_a_recipe_draws_general_prompts(zoo: Registry) -> None:
    found = settled(zoo, "tiny")
    assert (found.size, len(found.prompts)) == ((16, 16), 64)


def test_presets(shipped: Registry, tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(f"caption {index}" for index in range(30_001)))
    found = settled(shipped, "sd15", preset="coco-30k", prompts=captions)
    assert (len(found.prompts), found.prompts[-1]) == (30_000, "caption 29999")
    assert (found.steps, found.guidance, found.resize) == (25, 7.5, 256)
    assert (found.prefix, found.encoders) == ("A photo depicts ", ("inception-v3", "clip-vit-g-14"))
    assert (
        settled(shipped, "sd15", preset="coco-30k", prompts=captions, images=10, guidance=4.0).guidance == 4.0
    )
    with pytest.raises(UsageError, match=r"needs its captions.*captions_val2014.json"):
        settled(shipped, "sd15", preset="coco-30k")
    with pytest.raises(UsageError, match="there is no preset 'coco'; there are: coco-30k"):
        settled(shipped, "sd15", preset="coco", prompts=captions)


def test_too_few_prompts(shipped: Registry, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\n\nb\n")
    assert settled(shipped, prompts=prompts).prompts == ("a", "b")
    with pytest.raises(UsageError, match=r"2 prompts are fewer than the 3 .* lower --images"):
        settled(shipped, prompts=prompts, images=3)


def test_coco_captions_are_the_first_of_each_picture(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    annotations = [
        {"image_id": 9, "id": 4, "caption": " A dog. "},
        {"image_id": 3, "id": 8, "caption": "Second."},
        {"image_id": 3, "id": 2, "caption": "First."},
    ]
    path.write_text(json.dumps({"images": [], "annotations": annotations}))
    assert read_prompts(path) == ["First.", "A dog."]
    path.write_text(json.dumps(["x", " ", "y"]))
    assert read_prompts(path) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\xff\xfe\x00", "cannot be read as prompts"),
        ("a.txt", b"\n \n", "holds no prompt"),
        ("a.json", b"{", "cannot be read as prompts"),
        ("a.json", b"{}", "neither a list of prompts nor COCO's captions"),
        ("a.json", b"[1]", "neither a list of prompts"),
        ("a.json", b'{"annotations": [{"id": 1}]}', "neither a list of prompts"),
        ("a.json", b"3", "neither a list of prompts"),
    ],
)
def test_prompts_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_prompts(tmp_path / name)
