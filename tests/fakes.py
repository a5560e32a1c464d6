"""Checkpoints for tests: real headers over files that are holes (sparse), so that 7 GB cost nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unet_configs import UNETS

from linzoo.checkpoints.header import DTYPES
from linzoo.checkpoints.ldm import LDM_PREFIX, UNetKeyMap
from linzoo.checkpoints.manifest import Shape, unet_manifest

LAYOUTS = ("ldm", "ldm-bare", "diffusers")


def unet_shapes(name: str, layout: str) -> dict[str, Shape]:
    """The tensors of a published UNet as a file of this layout names them."""
    manifest = unet_manifest(UNETS[name])
    if layout == "diffusers":
        return manifest
    keys, prefix = UNetKeyMap(UNETS[name]), LDM_PREFIX if layout == "ldm" else ""
    outside = ("time_embedding.cond_proj", "encoder_hid_proj")
    return {
        prefix + keys.to_ldm(key): shape for key, shape in manifest.items() if not key.startswith(outside)
    }


def raw_header(
    shapes: Mapping[str, Shape], dtypes: Mapping[str, str], metadata: Mapping[str, str]
) -> tuple[bytes, int]:
    """The header's JSON and how many bytes of data belong to it."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, shape in shapes.items():
        code = dtypes.get(name, "F16")
        end = offset + math.prod(shape) * DTYPES[code].itemsize
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    return json.dumps(entries).encode(), offset


def write_sparse(
    path: Path,
    shapes: Mapping[str, Shape],
    *,
    dtypes: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a safetensors file of these shapes (F16 unless ``dtypes`` says otherwise) whose data are all zero."""
    raw, data = raw_header(shapes, dtypes or {}, metadata or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + data)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path
