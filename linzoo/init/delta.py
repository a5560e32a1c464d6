"""Init recipe ``delta``: a fine-tune's own changes carried over to published linear weights.

For v and out: ``W = W_linear + (W_finetune - W_base)``; for q and k the same in the directions that the linear weights look
along (:mod:`linzoo.init.basis`); the branches are the published ones. This keeps what the fine-tune learnt, which mounting
the published weights as they are overwrites.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from linzoo.attention.layout import PROJECTIONS
from linzoo.checkpoints.unet import UNetTensors
from linzoo.errors import CheckpointError
from linzoo.init.basis import carry_over
from linzoo.init.kinship import LEAST_BASIS, LEAST_CORRELATION, MOST_CHANGE, Kinship
from linzoo.init.numbers import FLOATS, cast, dtype_name, read_finite
from linzoo.init.pretrained import copy_of_published, published, published_name
from linzoo.init.recipe import Follow, InitPlan, InitRequest, PlannedTensor, TargetModule

_TURNED = ("to_q.weight", "to_k.weight")
"""Projections whose directions may be others than the teacher's: softmax sees their products alone."""


def build(request: InitRequest) -> InitPlan:
    """Plan the sums; before the first it is measured whether they mean something.

    Raises:
        CheckpointError: the base has other shapes, or one of the models is too coarsely rounded.
    """
    base = _base(request)
    for module in request.modules:
        for name in PROJECTIONS:
            _check_comparable(request.teacher, base, module, name)
    tensors = tuple(
        _sum(request, base, module, name) if name in PROJECTIONS else copy_of_published(request, module, name)
        for module in request.modules
        for name in module.shapes
    )
    return InitPlan(tensors, prepare=partial(_measure, request, base, tensors))


def _measure(
    request: InitRequest, base: UNetTensors, tensors: tuple[PlannedTensor, ...], follow: Follow
) -> InitPlan:
    """Measure how the three models are related.

    Raises:
        CheckpointError: the fine-tune is no descendant of the base, or the linear weights share no basis with it.
    """
    kinship = Kinship()
    with follow("Comparing", len(request.modules)) as advance:
        for module in request.modules:
            kinship.add(module.entry.module_name, _matrices(request, base, module))
            advance(1)
    _check_descent(request, base, kinship)
    _check_basis(request, kinship)
    return InitPlan(tensors, kinship.to_json())


def _base(request: InitRequest) -> UNetTensors:
    assert request.base is not None
    return request.base


def _check_comparable(teacher: UNetTensors, base: UNetTensors, module: TargetModule, name: str) -> None:
    source = module.source(name)
    info, own = base.tensors.get(source), teacher.tensors[source]
    if info is None or info.shape != own.shape:
        raise CheckpointError(
            f"{base.checkpoint.spec}: the base has {f'shape {list(info.shape)}' if info else 'no tensor'} for"
            f" '{source}', the fine-tune has {list(own.shape)}: they are not of one variant"
        )
    for unet, each in ((base, info), (teacher, own)):
        if each.dtype not in FLOATS:
            raise CheckpointError(
                f"{unet.checkpoint.spec}: '{source}' is {each.dtype}, whose rounding is larger than most fine-tunes;"
                " --init delta needs 16 bits or more"
            )


def _sum(request: InitRequest, base: UNetTensors, module: TargetModule, name: str) -> PlannedTensor:
    linfusion, source = published(request), module.source(name)
    linear = published_name(linfusion, module, name)
    dtype = request.dtype or linfusion.checkpoint.tensors[linear].dtype
    return PlannedTensor(
        name=module.target(name),
        dtype=dtype,
        shape=module.shapes[name],
        action="combined",
        make=partial(_make_sum, request, base, module, name, dtype),
        sources=(
            f"linfusion:{linear}",
            f"teacher:{request.teacher.names[source]}",
            f"base:{base.names[source]}",
        ),
        how=f"linfusion + {'T (teacher - base)' if name in _TURNED else 'teacher - base'}, rounded to {dtype_name(dtype)}",
    )


def _make_sum(
    request: InitRequest, base: UNetTensors, module: TargetModule, name: str, dtype: str
) -> np.ndarray:
    source, linfusion = module.source(name), published(request)
    linear = read_finite(linfusion.checkpoint, published_name(linfusion, module, name), "F32")
    before = _float32(base, source)
    change = _float32(request.teacher, source) - before
    if not change.any():  # the published bits stay; a zero that is added turns -0 into 0
        return cast(linear, dtype, source)
    if name in _TURNED:
        return cast(carry_over(linear, before, change, module.entry.heads), dtype, source)
    return cast(np.add(linear, change, out=linear), dtype, source)


def _float32(unet: UNetTensors, name: str) -> np.ndarray:
    return read_finite(unet.checkpoint, unet.names[name], "F32")


def _matrices(
    request: InitRequest, base: UNetTensors, module: TargetModule
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    linfusion = published(request)
    for name in PROJECTIONS:
        if name.endswith(".weight"):
            source = module.source(name)
            yield (
                name,
                _float32(base, source),
                _float32(request.teacher, source),
                read_finite(linfusion.checkpoint, published_name(linfusion, module, name), "F32"),
            )


def _check_descent(request: InitRequest, base: UNetTensors, kinship: Kinship) -> None:
    module, cosine = kinship.weakest
    change = kinship.descent.relative_change
    if change <= MOST_CHANGE and cosine >= LEAST_CORRELATION:
        return
    raise CheckpointError(
        f"{request.teacher.checkpoint.spec} is no fine-tune of {base.checkpoint.spec}: its attention differs by"
        f" {change:.0%} of the base's norm (at most {MOST_CHANGE:.0%}), and its correlation with the base is"
        f" {kinship.descent.cosine:.3f}, at '{module}' {cosine:.3f} (at least {LEAST_CORRELATION}).\n"
        "  Name the model that it was really tuned from with --base, or use --init teacher."
    )


def _check_basis(request: InitRequest, kinship: Kinship) -> None:
    if kinship.basis.cosine >= LEAST_BASIS:
        return
    raise CheckpointError(
        f"{published(request).checkpoint.spec} shares no basis with the base model: the cosine between their to_v and"
        f" to_out is {kinship.basis.cosine:.3f} (at least {LEAST_BASIS}), as after training from a random start."
        " A difference of softmax weights means nothing there.\n"
        "  Use --init pretrained (the published weights as they are) or --init teacher."
    )
