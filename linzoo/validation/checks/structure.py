"""Does the checkpoint fit the teacher, is it whole, and is it used as it was made? Headers and numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from linzoo.attention.fit import misfits
from linzoo.attention.handle import announced, read_tensor, tensor_problems
from linzoo.attention.plan import sites_of
from linzoo.checkpoints.lock import changed_outputs
from linzoo.checkpoints.unet import open_unet
from linzoo.plugin import Measure
from linzoo.validation.subject import Subject


def structure(subject: Subject) -> Iterator[Measure]:
    """Whether modules and tensors are those that the teacher has a place for, and all numbers are finite."""
    unet = open_unet(subject.found.checkpoint, subject.variant)
    shapes = {name: info.shape for name, info in unet.tensors.items()}
    wrong = misfits(subject.config, sites_of(unet.config, shapes))
    yield Measure(
        name="misfits",
        title="Modules that the teacher has no place for",
        value=len(wrong),
        bar=0,
        detail=next((f"{name}: {why}" for name, why in wrong.items()), f"all {_layers(subject)} fit"),
        culprits=tuple(wrong),
    )
    problems = tensor_problems(subject.opened, announced(subject.config, subject.registry))
    faulty = [f"{_named(subject, name)}: {problem}" for problem, names in problems.items() for name in names]
    yield Measure(
        name="tensors",
        title="Tensors that are missing, too many or misshaped",
        value=len(faulty),
        bar=0,
        detail=f"{len(subject.opened.tensors)} tensors",
        culprits=tuple(faulty),
    )
    broken = [_named(subject, name) for name in subject.opened.tensors if not _finite(subject, name)]
    yield Measure(
        name="not-finite",
        title="Tensors with numbers that are not finite",
        value=len(broken),
        bar=0,
        detail="NaN or infinity makes every picture black" if broken else "",
        culprits=tuple(broken),
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
    yield Measure(
        name="settings",
        title="Settings that differ from those it was made with",
        value=len(differing),
        bar=0,
        detail="; ".join(differing) or "variant, prediction type and size are the same",
        culprits=tuple(differing),
    )
    changed = changed_outputs(subject.checkpoint, lock)
    yield Measure(
        name="files",
        title="Files that were changed since the lock file was written",
        value=len(changed),
        bar=0,
        detail="another program wrote to it, or a download was cut" if changed else "",
        culprits=tuple(changed),
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


def _layers(subject: Subject) -> str:
    return f"{len(subject.config.modules)} modules"


def _named(subject: Subject, tensor: str) -> str:
    """A tensor by the module that it is of, as people know it: ``mid_block….attn1.to_q.weight``."""
    index, _, rest = tensor.partition(".")
    modules = subject.config.modules
    if not index.isdigit() or int(index) >= len(modules):
        return tensor
    return f"{modules[int(index)].module_name}.{rest}"


def _finite(subject: Subject, name: str) -> bool:
    return bool(torch.isfinite(read_tensor(subject.opened, name)).all())
