"""Init recipe ``teacher``: the teacher's own projections bit for bit, and a branch that adds nothing yet."""

from __future__ import annotations

from linzoo.attention.layout import BRANCHES, PROJECTIONS
from linzoo.init.random import constant, fresh_dtype, torch_default
from linzoo.init.recipe import InitPlan, InitRequest, PlannedTensor, TargetModule, copied


def build(request: InitRequest) -> InitPlan:
    """Plan ``to_q``, ``to_k``, ``to_v``, ``to_out`` as copies, and the branches with a last layer of zeros.

    With that last layer zero, the branches f and g of ``q = elu(Wq(x + f(x))) + 1`` start as no change to x.
    """
    return InitPlan(
        tuple(
            copy_of_teacher(request, module, name)
            if name in PROJECTIONS
            else branch_tensor(request, module, name)
            for module in request.modules
            for name in module.shapes
        )
    )


def copy_of_teacher(request: InitRequest, module: TargetModule, name: str) -> PlannedTensor:
    """Plan a copy of one of the teacher's tensors, cast only if another dtype was asked for."""
    teacher = request.teacher
    source = teacher.names[module.source(name)]
    return copied(request, module, name, "teacher", teacher.checkpoint, source)


def branch_tensor(request: InitRequest, module: TargetModule, name: str) -> PlannedTensor:
    """Plan a tensor of ``to_q_`` or ``to_k_``: zero in the last layer, torch's default before it."""
    dtype = fresh_dtype(request, module)
    if name.startswith(tuple(f"{branch}.3." for branch in BRANCHES)):
        return constant(module, name, dtype, 0.0)
    return torch_default(module, name, dtype, request.seed)
