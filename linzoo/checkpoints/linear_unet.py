"""A UNet with LinFusion attention merged into it, as a folder of a pipeline: what lies where, and what guards it.

::

    unet/config.json                                         the teacher's, with ``modules_list``
    unet/linzoo_unet_<hash>.py                               the code that diffusers runs for ``trust_remote_code=True``
    unet/linear.weights/diffusion_pytorch_model.safetensors  or shards and their index

A stock ``UNet2DConditionModel`` would drop the tensors that it does not know with a mere warning, and compute softmax
attention with linear attention's weights. Two guards prevent it:

* ``config.json`` says ``quantization_config``, with a ``quant_method`` that is no method but :data:`REFUSAL`. That is the
  one entry that diffusers judges before it looks for weights, so that every way of loading the UNet fails at once, on the
  Hub too, with that text in the error. (A block type or an embedding type of that name is refused only after the weights
  were found and fetched; an unknown ``_class_name`` is not refused at all.)
* The weights lie one folder deeper than diffusers and other programs look for them, under diffusers' own names: what reads
  weights and no config finds none. The Hub client of diffusers fetches them there all the same, which it would not do
  under a name of our own, or under the name of a variant. The folder's name has a dot in it because diffusers takes the
  second part of every name beside ``config.json`` for a variant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from linzoo.checkpoints.linfusion import CONFIG_NAME
from linzoo.checkpoints.lock import encode_json
from linzoo.checkpoints.writer import write_file

CLASS_NAME = "LinearUNet"

REFUSAL = (
    "none at all: the self-attention of this UNet is linear (LinFusion), and a stock UNet2DConditionModel would compute"
    " softmax attention with its weights. Run 'pip install linzoo', and load the whole pipeline with"
    " DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
)
"""What the error of a program that does not know the UNet says, behind diffusers' "Unknown quantization type, got"."""

CODE = '''"""The UNet of this pipeline has linear attention (LinFusion), which the package linzoo computes."""

try:
    from linzoo.attention.unet import LinearUNet
except ImportError as error:
    raise ImportError(
        f"The UNet of this pipeline has linear attention, which linzoo computes: pip install linzoo ({error})"
    ) from error

__all__ = ["LinearUNet"]
'''
"""The module that is shipped with the weights."""

MODULE_NAME = f"linzoo_unet_{hashlib.sha256(CODE.encode()).hexdigest()[:8]}"
"""Its name. diffusers keeps such modules by name in one folder for all pipelines: other code must have another name."""


def describe(config: Mapping[str, Any], modules_list: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what ``config.json`` holds.

    Args:
        config: the teacher's UNet config, or that of a UNet in memory.
        modules_list: the replaced modules, as ``config.json`` of a LinFusion checkpoint has them.
    """
    described = {**config, "_class_name": CLASS_NAME, "modules_list": modules_list}
    described.pop("_name_or_path", None)
    described.setdefault("quantization_config", {"quant_method": REFUSAL})
    return described


def remove_refusal(config: dict[str, Any]) -> None:
    """Take the guard out of a config that was read, for those who know the UNet."""
    if config.get("quantization_config") == {"quant_method": REFUSAL}:
        del config["quantization_config"]


def write_beside_weights(folder: Path, described: Mapping[str, Any]) -> None:
    """Write ``config.json``, as :func:`describe` returns it, and the shipped module.

    Raises:
        OSError: the disk refuses.
    """
    write_file(folder / CONFIG_NAME, encode_json(described))
    write_file(folder / f"{MODULE_NAME}.py", CODE.encode())
