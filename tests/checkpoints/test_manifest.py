"""The manifest of a config is what diffusers really builds, and both layouts translate into one another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unet_configs import UNETS

from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.checkpoints.manifest import unet_manifest
from linzoo.errors import CheckpointError

NOT_IN_LDM = ("time_embedding.cond_proj", "encoder_hid_proj")

PUBLISHED = {"sd15": (686, 859_520_964), "sd21": (686, 865_910_724), "sdxl": (1680, 2_567_463_684)}


def built_by_diffusers(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """A small UNet of any number of levels, layers and transformer blocks."""
    levels = draw(st.integers(2, 5))
    attention = draw(st.lists(st.booleans(), min_size=levels, max_size=levels))
    text_time = draw(st.booleans())
    return {
        "block_out_channels": [8 * draw(st.integers(1, 3)) for _ in range(levels)],
        "down_block_types": ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attention)],
        "layers_per_block": draw(
            st.one_of(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=levels, max_size=levels))
        ),
        "transformer_layers_per_block": draw(
            st.one_of(st.integers(1, 3), st.lists(st.integers(1, 3), min_size=levels, max_size=levels))
        ),
        "mid_block_type": draw(st.sampled_from(["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"])),
        "in_channels": draw(st.integers(1, 9)),
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "use_linear_projection": draw(st.booleans()),
        **(
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 8,
                "projection_class_embeddings_input_dim": 64,
            }
            if text_time
            else {}
        ),
    }


@pytest.mark.parametrize("name", UNETS)
def test_manifest_is_what_diffusers_builds(name: str) -> None:
    assert unet_manifest(UNETS[name]) == built_by_diffusers(UNETS[name])


@given(config=configs())
@settings(max_examples=25, deadline=None)
def test_manifest_of_random_configs_is_what_diffusers_builds(config: dict[str, Any]) -> None:
    assert unet_manifest(config) == built_by_diffusers(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_manifest_has_the_published_size(name: str) -> None:
    import math

    manifest = unet_manifest(UNETS[name])
    assert (len(manifest), sum(map(math.prod, manifest.values()))) == PUBLISHED[name]


@given(config=configs())
@settings(max_examples=100, deadline=None)
def test_both_layouts_translate_into_one_another(config: dict[str, Any]) -> None:
    keys = UNetKeyMap(config)
    names = list(unet_manifest(config))
    ldm = [keys.to_ldm(name) for name in names]
    assert len(set(ldm)) == len(names)
    assert [keys.to_diffusers(name) for name in ldm] == names
    assert not set(ldm) & {
        name for name in names if name.startswith(("down_blocks", "up_blocks", "mid_block"))
    }


@pytest.mark.parametrize("name", UNETS)
def test_ldm_names_are_those_that_diffusers_converts(name: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config, manifest = UNETS[name], unet_manifest(UNETS[name])
    keys = UNetKeyMap(config)
    file = {LDM_PREFIX + keys.to_ldm(each): each for each in manifest if not each.startswith(NOT_IN_LDM)}
    converted = convert_ldm_unet_checkpoint(dict(file), config=config)
    assert converted == {each: each for each in manifest if not each.startswith(NOT_IN_LDM)}


@pytest.mark.parametrize("name", ["sd15", "sd21", "sdxl"])
def test_tiny_configs_of_the_variants_convert_too(name: str, registry) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from linzoo.plugin import thaw

    config = thaw(registry.variants.get_value(name).tiny)
    keys, shapes = UNetKeyMap(config), built_by_diffusers(config)
    file = {LDM_PREFIX + keys.to_ldm(each): each for each in shapes}
    assert convert_ldm_unet_checkpoint(file, config=config) == {each: each for each in shapes}


def test_names_that_a_layout_does_not_have() -> None:
    keys = UNetKeyMap(UNETS["sd15"])
    for name in (
        "time_embedding.cond_proj.weight",
        "up_blocks.4.resnets.0.conv1.weight",
        "",
        "conv_in_2.weight",
    ):
        with pytest.raises(KeyError):
            keys.to_ldm(name)
    for name in ("input_blocks.12.0.in_layers.0.weight", "label_emb.0.0.weight", "out.1.weight"):
        with pytest.raises(KeyError):
            keys.to_diffusers(name)


def test_inner_names_of_a_transformer_stay_as_they_are() -> None:
    keys = UNetKeyMap(UNETS["sdxl"])
    inner = "transformer_blocks.9.attn1.to_q_.0.weight"  # what LinFusion adds
    assert keys.to_ldm(f"up_blocks.0.attentions.2.{inner}") == f"output_blocks.2.1.{inner}"
    assert keys.to_ldm("up_blocks.0.upsamplers.0.conv.bias") == "output_blocks.2.2.conv.bias"
    assert (
        UNetKeyMap(UNETS["sd15"]).to_ldm("up_blocks.0.upsamplers.0.conv.bias")
        == "output_blocks.2.1.conv.bias"
    )


def test_foreign_block_types_are_refused() -> None:
    config = {**UNETS["sd15"], "down_block_types": ["KDownBlock2D"] * 4}
    with pytest.raises(CheckpointError, match="block type 'KDownBlock2D'"):
        UNetKeyMap(config)
    with pytest.raises(CheckpointError, match="block type 'KDownBlock2D'"):
        unet_manifest(config)
