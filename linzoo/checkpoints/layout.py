"""Which of the layouts in use a file's tensor names follow."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from linzoo.checkpoints.ldm import LDM_PREFIX

Layout = Literal["ldm", "ldm-bare", "diffusers", "diffusers-component", "diffusers-folder", "other"]
"""How a checkpoint is laid out.

``ldm``: one file, UNet names behind ``model.diffusion_model.``; ``ldm-bare``: the same without that prefix;
``diffusers``: one file with diffusers' UNet names; ``diffusers-component``: a folder with ``config.json`` and
weights; ``diffusers-folder``: a pipeline folder; ``other``: one file without a UNet in a known layout.
"""


def layout_of(names: Collection[str]) -> Layout:
    """Tell the layout of a single file by the first convolution of its UNet."""
    if f"{LDM_PREFIX}input_blocks.0.0.weight" in names:
        return "ldm"
    if "input_blocks.0.0.weight" in names:
        return "ldm-bare"
    if "conv_in.weight" in names and "time_embedding.linear_1.weight" in names:
        return "diffusers"
    return "other"
