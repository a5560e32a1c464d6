"""Does the checkpoint fit the teacher, is it whole, and is it used as it was made? Headers and numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from linzoo.attention.fit import misfits
from linzoo.attention.handle import FLOATING, announced, read_tensor, tensor_problems
from linzoo.attention.plan import sites_of
from linzoo.checkpoints.lock import changed_outputs
from linzoo.checkpoints.unet import open_unet
from linzoo.plugin import Measure
from linzoo.validation.checks.faults import faults
from linzoo.validation.subject import Subject


def structure(subject: Subject) -> Iterator[Measure]:
    """Whether modules and tensors are those that the teacher has a place for, and all numbers are finite."""
    unet = open_unet(subject.found.checkpoint, subject.variant)
    shapes = {name: info.shape for name, info in unet.tensors.items()}
    wrong = misfits(subject.config, sites_of(unet.config, shapes))
    yield faults(
        "misfits",
        "Modules that the teacher has no place for",
        tuple(wrong),
        next(
            (f"{name}: {why}" for name, why in wrong.items()),
            f"all {len(subject.config.modules)} modules fit",
        ),
    )
    problems = tensor_problems(subject.opened, announced(subject.config, subject.registry))
    yield faults(
        "tensors",
        "Tensors that are missing, too many or misshaped",
        [f"{_named(subject, name)}: {problem}" for problem, names in problems.items() for name in names],
        f"{len(subject.opened.tensors)} tensors",
    )
    broken = [_named(subject, name) for name in subject.opened.tensors if not _finite(subject, name)]
    yield faults(
        "not-finite",
        "Tensors with numbers that are not finite",
        broken,
        "NaN or infinity makes every picture black" if broken else "",
    )


def usage(subject: Subject) -> Iterator[Measure]:
    """Whether the checkpoint is used as its lock file says that it was made."""
    lock = subject.lock
    if lock is None:
        why = "the checkpoint has no lock file that says how it was made"
        yield Measure(name="settings", title="Settings that differ", value=None, skipped=why)
        yield Measure(name="files", title="Files that were changed", value=None, skipped=why)
        return
    made = lock.get("detection", {})
    differing = [
        f"{setting}: made for {then}, used with {now}"
        for setting, then, now in (
            ("variant", made.get("variant"), subject.variant.id),
            ("prediction_type", made.get("prediction_type"), subject.prediction_type),
        )
        if then is not None and then != now
    ]
    if subject.size not in subject.settings.trained:
        sizes = " and ".join("{}x{}".format(*size) for size in subject.settings.trained)
        differing.append("size: trained at {}, used at {}x{} pixels".format(sizes, *subject.size))
    yield faults(
        "settings",
        "Settings that differ from those it was made with",
        differing,
        "; ".join(differing) or "variant, prediction type and size are the same",
    )
    changed = changed_outputs(subject.checkpoint, lock, fetched=subject.opened.revision is not None)
    yield faults(
        "files",
        "Files that were changed since the lock file was written",
        changed,
        "another program wrote to it, or a download was cut" if changed else "",
    )


def layout(subject: Subject) -> Iterator[Measure]:
    """Whether the official code and diffusers read it: one dtype, generalized linear attention, known names."""
    dtypes: dict[str, list[str]] = {}
    for name, info in subject.opened.tensors.items():
        dtypes.setdefault(info.dtype, []).append(_named(subject, name))
    rare = sorted(dtypes.values(), key=len)[:-1]
    yield Measure(
        name="dtypes",
        title="Precisions of the weights",
        value=len(dtypes),
        bar=1,
        detail=", ".join(f"{len(names)} tensors {dtype}" for dtype, names in dtypes.items()),
        culprits=tuple(name for names in rare for name in names),
    )
    others = [module for module in subject.config.modules if module.mixer != "generalized-linear"]
    yield Measure(
        name="unofficial-modules",
        title="Modules that the official code cannot read",
        value=len(others),
        detail=", ".join(sorted({module.mixer for module in others})) or "the official layout",
        culprits=tuple(module.module_name for module in others),
    )


def _named(subject: Subject, tensor: str) -> str:
    """A tensor by the module that it is of, as people know it: ``mid_block….attn1.to_q.weight``."""
    index, _, rest = tensor.partition(".")
    modules = subject.config.modules
    if not index.isdigit() or int(index) >= len(modules):
        return tensor
    return f"{modules[int(index)].module_name}.{rest}"


def _finite(subject: Subject, name: str) -> bool:
    """Whether a tensor's numbers are finite; one that holds none, or no floating-point ones, is another fault."""
    info = subject.opened.tensors[name]
    if info.dtype not in FLOATING or 0 in info.shape:
        return True
    return bool(torch.isfinite(read_tensor(subject.opened, name)).all())
