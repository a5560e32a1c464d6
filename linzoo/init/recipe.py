"""The contract between a conversion and an init recipe: what a recipe is given, and what it gives back.

A recipe is a function ``build(request: InitRequest) -> InitPlan``, named by ``InitRecipe.build``. It only *plans*:
each tensor comes with a function that makes it when its turn to be written has come, so that a conversion never
holds more than one tensor. A recipe that has to compute first says so with ``InitPlan.prepare``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from linzoo.checkpoints.inspection import Inspection
from linzoo.checkpoints.linfusion import LinFusionConfig, ModuleEntry, tensor_name
from linzoo.checkpoints.source import Checkpoint
from linzoo.checkpoints.unet import UNetTensors
from linzoo.init.numbers import dtype_name, read_finite
from linzoo.plugin import Variant

if TYPE_CHECKING:
    from linzoo.registry import Registered, Registry

Action = Literal["copied", "initialised", "combined"]

Follow = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Follows long work: given its title and how many steps it has, a block that is told how many more are done."""


@dataclass(frozen=True)
class TargetModule:
    """One module of the LinFusion checkpoint to be made.

    Attributes:
        index: its place in ``modules_list``.
        entry: what ``config.json`` will say about it.
        shapes: shape of each of its tensors, by the name inside the module.
    """

    index: int
    entry: ModuleEntry
    shapes: Mapping[str, tuple[int, ...]]

    def target(self, name: str) -> str:
        """The name in the weights file of a tensor of this module."""
        return tensor_name(self.index, name)

    def source(self, name: str) -> str:
        """The name, in a diffusers UNet, of the tensor of the replaced attention that has the same name inside it."""
        return f"{self.entry.module_name}.{name}"


@dataclass(frozen=True)
class PublishedWeights:
    """A LinFusion checkpoint to start from: the files and the config."""

    checkpoint: Checkpoint
    config: LinFusionConfig


@dataclass(frozen=True)
class InitRequest:
    """What an init recipe may read.

    Attributes:
        modules: the modules to be made.
        teacher: the UNet that is converted.
        inspection: what is known of the checkpoint that it lies in.
        variant: which variant it is of.
        registry: what plugins provide.
        linfusion: published LinFusion weights; None unless the recipe needs them.
        base: the UNet that those were distilled from; None unless the recipe needs it.
        dtype: safetensors code of the result; None for that of the weights it starts from.
        seed: of everything that is drawn.
    """

    modules: tuple[TargetModule, ...]
    teacher: UNetTensors
    inspection: Inspection
    variant: Registered[Variant]
    registry: Registry
    linfusion: PublishedWeights | None = None
    base: UNetTensors | None = None
    dtype: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the result, and how it will come to be.

    Attributes:
        name: in the weights file, for example ``0.to_q.weight``.
        dtype: safetensors code.
        shape: its dimensions.
        action: ``copied`` from one tensor, ``combined`` from several, or ``initialised`` from none.
        sources: the file's own names of what it is read from, each behind its role: ``teacher:…``, ``base:…``.
        how: what happens on the way, for people: ``zeros``, ``float32 to float16``; empty for a plain copy.
        make: makes the numbers; called once, when they are due.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    action: Action
    make: Callable[[], np.ndarray]
    sources: tuple[str, ...] = ()
    how: str = ""


def copied(
    request: InitRequest, module: TargetModule, name: str, role: str, checkpoint: Checkpoint, source: str
) -> PlannedTensor:
    """Plan a copy of one tensor, cast only if another dtype was asked for.

    Args:
        request: what the recipe was given.
        module: the module to be made.
        name: the tensor's name inside it.
        role: what the copy is read from: ``teacher``, ``linfusion`` or ``base``.
        checkpoint: where it is read.
        source: its own name there.
    """
    own = checkpoint.tensors[source].dtype
    dtype = request.dtype or own
    return PlannedTensor(
        name=module.target(name),
        dtype=dtype,
        shape=module.shapes[name],
        action="copied",
        make=partial(read_finite, checkpoint, source, dtype),
        sources=(f"{role}:{source}",),
        how="" if own == dtype else f"{dtype_name(own)} to {dtype_name(dtype)}",
    )


@dataclass(frozen=True)
class InitPlan:
    """What an init recipe answers.

    Attributes:
        tensors: every tensor of every module.
        measured: what the recipe measured, to see whether it may be used or to choose by; goes into the lock file.
        prepare: for a recipe that has to compute at length before there is any tensor: does so, and gives the plan to go
            on with, of the same tensors, which has what was measured. Not called in a dry run.
    """

    tensors: tuple[PlannedTensor, ...]
    measured: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Follow], InitPlan] | None = None
