"""What linzoo_sd15, linzoo_sd21 and linzoo_sdxl declare holds for the published structures and for the tiny ones."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from linzoo.attention.plan import resolve_plan, sites_of
from linzoo.checkpoints.components import component_config
from linzoo.checkpoints.features import fingerprint_of
from linzoo.checkpoints.ldm import UNetKeyMap
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.plugin import Variant, thaw
from linzoo.registry import Registry, build_registry

MODULES = ("linzoo_sd15", "linzoo_sd21", "linzoo_sdxl")
VARIANTS = (
    "sd15", "sd15-inpaint", "sd15-instruct-pix2pix", "sd21", "sd21-inpaint",
    "sd21-instruct-pix2pix", "sdxl", "sdxl-inpaint", "sdxl-instruct-pix2pix",
)  # fmt: skip
FULL = {"sd15": 16, "sd21": 16, "sdxl": 70}


@pytest.fixture(scope="module")
def zoo() -> Registry:
    return build_registry(builtins=(*MODULES, "linzoo_mixers"), entry_points=False, env={})


def tiny_of(variant: Variant) -> dict[str, Any]:
    return {**component_config(variant, "unet"), **thaw(variant.tiny)}


def test_they_provide_what_they_say(zoo: Registry) -> None:
    assert [status.state for status in zoo.plugins] == ["ok"] * 4
    assert tuple(entry.value.id for entry in zoo.variants) == VARIANTS
    assert [entry.value.id for entry in zoo.plans] == [
        f"{name}-{kind}" for name in FULL for kind in ("full", "keep-small")
    ]
    assert dict(zoo.variants.get_value("sd21").native_size) == {"epsilon": 512, "v_prediction": 768}
    published = {name: thaw(zoo.variants.get_value(name).linfusion) for name in FULL}
    assert published == {
        "sd15": {"runwayml/stable-diffusion-v1-5": "Yuanshi/LinFusion-1-5"},
        "sd21": {"stabilityai/stable-diffusion-2-1": "Yuanshi/LinFusion-2-1"},
        "sdxl": {"stabilityai/stable-diffusion-xl-base-1.0": "Yuanshi/LinFusion-XL"},
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_fingerprint_is_that_of_the_bundled_config(name: str, zoo: Registry) -> None:
    variant = zoo.variants.get_value(name)
    config = component_config(variant, "unet")
    manifest, keys = unet_manifest(config), UNetKeyMap(config)
    assert fingerprint_of(manifest, ldm=False) == variant.fingerprint
    assert (
        fingerprint_of({keys.to_ldm(key): shape for key, shape in manifest.items()}, ldm=True)
        == variant.fingerprint
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_tiny_has_the_structure_of_the_variant(name: str, zoo: Registry) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    variant = zoo.variants.get_value(name)
    config = tiny_of(variant)
    unet = UNet2DConditionModel(**{key: value for key, value in config.items() if not key.startswith("_")})
    shapes = {key: tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    assert shapes == unet_manifest(config)
    assert sum(tensor.numel() for tensor in unet.parameters()) < 10_000_000
    tiny, real = fingerprint_of(shapes, ldm=False), variant.fingerprint
    for feature in ("in_channels", "linear_projection", "depth", "mid_depth"):
        assert getattr(tiny, feature) == getattr(real, feature)
    assert (tiny.vector_dim is None) == (real.vector_dim is None)
    latents, text = (
        torch.zeros(1, config["in_channels"], 8, 8),
        torch.zeros(1, 3, config["cross_attention_dim"]),
    )
    added = None
    if variant.conditioning == "text+pooled+time_ids":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        added = {"text_embeds": torch.zeros(1, pooled), "time_ids": torch.zeros(1, 6)}
    with torch.no_grad():
        assert unet(latents, 1, text, added_cond_kwargs=added).sample.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("size", ["published", "tiny"])
@pytest.mark.parametrize("name", VARIANTS)
def test_plans_replace_what_they_expect(name: str, size: str, zoo: Registry) -> None:
    variant = zoo.variants.get_value(name)
    config = component_config(variant, "unet") if size == "published" else tiny_of(variant)
    sites = sites_of(config, unet_manifest(config))
    family = variant.refines or name
    assert len(sites) == FULL[family]
    assert variant.default_plan == f"{family}-full"
    full = resolve_plan(zoo.plans[variant.default_plan], sites, zoo)
    assert sum(each.replaced for each in full) == FULL[family]
    small = resolve_plan(zoo.plans[f"{family}-keep-small"], sites, zoo)
    assert sum(each.replaced for each in small) == 10
    if size == "published":
        assert {each.site.dim for each in small if each.replaced} == (
            {640} if family == "sdxl" else {320, 640}
        )
        assert {each.site.dim for each in small if not each.replaced} == {1280}


def test_xl_branches_are_narrow_as_published(zoo: Registry) -> None:
    config = component_config(zoo.variants.get_value("sdxl"), "unet")
    placements = resolve_plan(zoo.plans["sdxl-full"], sites_of(config, unet_manifest(config)), zoo)
    widths = {each.site.dim: each.shapes()["to_q_.0.weight"] for each in placements}
    assert widths == {640: (40, 640), 1280: (80, 1280)}


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, linzoo_sd15, linzoo_sd21, linzoo_sdxl\n"
        "for module in (linzoo_sd15, linzoo_sd21, linzoo_sdxl):\n"
        "    list(module.linzoo_variants()), list(module.linzoo_attention_plans())\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'safetensors', 'huggingface_hub', 'linzoo.checkpoints'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
