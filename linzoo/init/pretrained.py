"""Init recipe ``pretrained``: published LinFusion weights as they are, which is today's practice with fine-tunes."""

from __future__ import annotations

from linzoo.checkpoints.linfusion import tensor_name
from linzoo.errors import CheckpointError
from linzoo.init.recipe import InitPlan, InitRequest, PlannedTensor, PublishedWeights, TargetModule, copied


def build(request: InitRequest) -> InitPlan:
    """Plan a copy of every tensor of the published weights that the attention plan asks for."""
    return InitPlan(
        tuple(
            copy_of_published(request, module, name) for module in request.modules for name in module.shapes
        )
    )


def copy_of_published(request: InitRequest, module: TargetModule, name: str) -> PlannedTensor:
    """Plan a copy of one published tensor, cast only if another dtype was asked for.

    Raises:
        CheckpointError: the published weights do not hold it, or in another shape.
    """
    linfusion = published(request)
    source = published_name(linfusion, module, name)
    return copied(request, module, name, "linfusion", linfusion.checkpoint, source)


def published(request: InitRequest) -> PublishedWeights:
    """The published weights, which every recipe that ``needs`` them is given."""
    assert request.linfusion is not None
    return request.linfusion


def published_name(linfusion: PublishedWeights, module: TargetModule, name: str) -> str:
    """The name in the published file of a tensor of a module, which may have another place in its list.

    Raises:
        CheckpointError: it is missing there, or has another shape.
    """
    entries = [entry.module_name for entry in linfusion.config.modules]
    source = tensor_name(entries.index(module.entry.module_name), name)
    spec = linfusion.checkpoint.spec
    if source not in linfusion.checkpoint.tensors:
        raise CheckpointError(f"{spec}: tensor '{source}' is missing, which its config.json promises")
    shape = linfusion.checkpoint.tensors[source].shape
    if shape != module.shapes[name]:
        raise CheckpointError(
            f"{spec}: tensor '{source}' has shape {list(shape)}, but the UNet needs {list(module.shapes[name])}"
        )
    return source
