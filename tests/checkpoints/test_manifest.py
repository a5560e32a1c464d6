"""The manifest of a config is what diffusers really builds, and both layouts translate into one another."""


import pytest

from linzoo.checkpoints.manifest import unet_manifest
from unet_configs import UNETS

PUBLISHED = {
    "sd15": (686, 859_520_964),
    "sd21": (686, 865_910_724),
    "sd21-unclip-h": (690, 870_170_564),
    "sdxl": (1680, 2_567_463_684),
}


def shapes_of_diffusers(config: dict) -> dict[str, tuple[int, ...]]:
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


@pytest.mark.parametrize("name", UNETS)
def test_manifest_is_what_diffusers_builds(name: str) -> None:
    assert unet_manifest(UNETS[name]) == shapes_of_diffusers(UNETS[name])
