"""Which of the layouts in use a file's tensor names follow, and which of its tensors are the UNet's."""

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

_LDM_BODY = ("input_blocks.", "middle_block.", "output_blocks.")
_LDM_MODULES = frozenset({"input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"})
_DIFFUSERS_BODY = ("down_blocks.", "mid_block.", "up_blocks.")
_DIFFUSERS_MODULES = frozenset({
    "conv_in", "time_embedding", "add_embedding", "class_embedding", "encoder_hid_proj", "down_blocks", "mid_block",
    "up_blocks", "conv_norm_out", "conv_out",
})  # fmt: skip


def layout_of(names: Collection[str]) -> Layout:
    """Tell the layout of a single file by the names of its UNet's blocks."""
    behind = {name[len(LDM_PREFIX) :].partition(".")[0] for name in names if name.startswith(LDM_PREFIX)}
    if behind & _LDM_MODULES:  # other networks stand behind this prefix too
        return "ldm"
    if any(name.startswith(_LDM_BODY) for name in names):
        return "ldm-bare"
    if any(name.startswith(_DIFFUSERS_BODY) for name in names):
        return "diffusers"
    return "other"


def is_ldm(layout: Layout) -> bool:
    """Whether the UNet's tensors have LDM names."""
    return layout in {"ldm", "ldm-bare"}


def unet_names(names: Collection[str], layout: Layout) -> dict[str, str]:
    """The UNet's tensors: name inside the UNet (no prefix) to the file's own name."""
    if layout == "ldm":
        return {name[len(LDM_PREFIX) :]: name for name in names if name.startswith(LDM_PREFIX)}
    modules = _LDM_MODULES if layout == "ldm-bare" else _DIFFUSERS_MODULES
    return {name: name for name in names if name.partition(".")[0] in modules}
