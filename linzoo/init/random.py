"""Init recipe ``random``: what the published training script really does.

It builds ``LinFusion(**config)`` and mounts it, so that every replaced layer starts from torch's default
initialisation: not only the branches, also ``to_q``, ``to_k``, ``to_v`` and ``to_out``.
"""

from __future__ import annotations

import hashlib
import math
from functools import partial

import numpy as np

from linzoo.init.numbers import cast
from linzoo.init.recipe import InitPlan, InitRequest, PlannedTensor, TargetModule


def build(request: InitRequest) -> InitPlan:
    """Plan every tensor of every module as torch would initialise it."""
    return InitPlan(
        tuple(
            torch_default(module, name, fresh_dtype(request, module), request.seed)
            for module in request.modules
            for name in module.shapes
        )
    )


def fresh_dtype(request: InitRequest, module: TargetModule) -> str:
    """The dtype of a tensor that is read from nowhere: what was asked for, else that of the teacher's ``to_q``."""
    return request.dtype or request.teacher.tensors[module.source("to_q.weight")].dtype


def torch_default(module: TargetModule, name: str, dtype: str, seed: int) -> PlannedTensor:
    """Plan a tensor of an ``nn.Linear`` or ``nn.LayerNorm`` with torch's default distribution.

    ``nn.Linear``: weight and bias uniform in ±1/sqrt(fan_in). ``nn.LayerNorm``: weight 1, bias 0.
    """
    shape = module.shapes[name]
    layer, _, parameter = name.rpartition(".")
    weight_shape = module.shapes[f"{layer}.weight"]
    if len(weight_shape) == 1:
        value = 1.0 if parameter == "weight" else 0.0
        return constant(module, name, dtype, value)
    bound = 1 / math.sqrt(weight_shape[1])
    key = f"{seed}:{module.source(name)}"
    return PlannedTensor(
        name=module.target(name),
        dtype=dtype,
        shape=shape,
        action="initialised",
        make=partial(_make_uniform, key, shape, bound, dtype),
        how=f"uniform ±1/sqrt({weight_shape[1]})",
    )


def constant(module: TargetModule, name: str, dtype: str, value: float) -> PlannedTensor:
    """Plan a tensor that holds one value everywhere."""
    shape = module.shapes[name]
    return PlannedTensor(
        name=module.target(name),
        dtype=dtype,
        shape=shape,
        action="initialised",
        make=lambda: cast(np.full(shape, value, np.float32), dtype, name),
        how=f"{value:g}",
    )


def uniform(key: str, count: int) -> np.ndarray:
    """Draw ``count`` float32 numbers from [-1, 1) that depend on nothing but ``key``.

    Drawn from the raw bits of Philox, whose stream numpy promises never to change; the order in which tensors are
    made does not matter.
    """
    words = np.frombuffer(hashlib.sha256(key.encode()).digest()[:16], dtype="<u8")
    raw = np.random.Philox(key=words.astype(np.uint64)).random_raw((count + 1) // 2)
    bits = raw.astype("<u8", copy=False).view("<u4")[:count]
    values: np.ndarray = (bits >> np.uint32(8)).astype(np.float32)  # 24 bits, exact in float32
    values *= np.float32(2.0**-23)
    values -= np.float32(1.0)
    return values


def _make_uniform(key: str, shape: tuple[int, ...], bound: float, dtype: str) -> np.ndarray:
    values = uniform(key, math.prod(shape))
    values *= np.float32(bound)
    return cast(values.reshape(shape), dtype, key)
