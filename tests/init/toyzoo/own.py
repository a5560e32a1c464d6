"""A mixer of the plugin's own, and init recipes for it: one that works and five that do not."""

from __future__ import annotations

from typing import Any

import numpy as np

from linzoo.init.recipe import InitPlan, InitRequest, PlannedTensor


def tensors(dim: int, heads: int, options: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {"down.weight": (options["rank"], dim), "up.weight": (dim, options["rank"])}


def ones(request: InitRequest) -> InitPlan:
    return InitPlan(
        tuple(
            PlannedTensor(
                module.target(name), "F32", shape, "initialised", lambda s=shape: np.ones(s, np.float32)
            )
            for module in request.modules
            for name, shape in module.shapes.items()
        )
    )


def raises(request: InitRequest) -> InitPlan:
    raise ZeroDivisionError("oh")


def raises_late(request: InitRequest) -> InitPlan:
    def fail() -> np.ndarray:
        raise KeyError("late")

    return InitPlan(
        tuple(PlannedTensor(t.name, t.dtype, t.shape, t.action, fail) for t in ones(request).tensors)
    )


def incomplete(request: InitRequest) -> InitPlan:
    return InitPlan(ones(request).tensors[1:])


def wrong_type(request: InitRequest) -> list[PlannedTensor]:
    return list(ones(request).tensors)


def wrong_shape(request: InitRequest) -> InitPlan:
    return InitPlan(
        tuple(
            PlannedTensor(t.name, t.dtype, t.shape, t.action, lambda: np.ones(3, np.float32))
            for t in ones(request).tensors
        )
    )
