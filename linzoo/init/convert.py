"""``linzoo.convert``: a teacher becomes a LinFusion checkpoint, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from linzoo._version import __version__
from linzoo.checkpoints.atomic import explain_os_errors, new_folder, require_space, same_disk
from linzoo.checkpoints.base_hash import base_hash
from linzoo.checkpoints.digest import BackgroundDigests, Digest
from linzoo.checkpoints.earlier import check_target
from linzoo.checkpoints.linfusion import CONFIG_NAME, WEIGHTS_NAME
from linzoo.checkpoints.lock import (
    LOCK_NAME,
    LOCK_VERSION,
    describe_entry,
    describe_files,
    describe_source,
    encode_json,
    files_read,
    plain,
)
from linzoo.checkpoints.writer import SafetensorsWriter, TensorSpec, write_file
from linzoo.init.numbers import dtype_name
from linzoo.init.planning import ConversionPlan, blamed_on, plan_conversion

if TYPE_CHECKING:
    from linzoo.registry import Registry

Progress = Callable[[int], None]
"""Told how many more bytes of weights are written."""


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did, or, of a dry run, would do.

    Attributes:
        out: the folder of the LinFusion checkpoint.
        plan: what was settled beforehand.
        written: False for a dry run.
        free: bytes free on the disk of ``out`` before writing.
        lock: what ``linzoo.lock.json`` holds; None for a dry run.
    """

    out: Path
    plan: ConversionPlan
    written: bool
    free: int
    lock: Mapping[str, Any] | None = None


def convert(
    source: str | Path,
    out: str | Path,
    *,
    init: str | None = None,
    plan: str | None = None,
    variant: str | None = None,
    prediction_type: str | None = None,
    linfusion: str | Path | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    seed: int = 0,
    force: bool = False,
    dry_run: bool = False,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a teacher into a LinFusion checkpoint: the modules that replace its self-attention, and a lock file.

    No pipeline is built and no torch is imported (but for a ``.ckpt``): only the tensors that are needed are read, one
    at a time, and of a model on the Hub only those are fetched. The same input gives the same bytes. ``out`` appears whole
    at the end or not at all.

    Args:
        source: a diffusers folder, a ``.safetensors`` or ``.ckpt`` file, ``hf://repo[@rev][/file]`` or a registered name.
        out: the folder to make; an existing one is left alone unless it holds the same result.
        init: id of the init recipe: ``teacher``, ``calibrated``, ``random``, ``pretrained``, ``delta``, or a plugin's; None for the
            variant's default.
        plan: id of the attention plan; None for the variant's default.
        variant: id of the variant, where detection cannot tell.
        prediction_type: ``epsilon`` or ``v_prediction``, where detection cannot tell.
        linfusion: published LinFusion weights, for the init recipes that need them.
        base: the model that those were distilled from, for ``delta``.
        dtype: ``float16``, ``bfloat16`` or ``float32``; None for that of the weights that it starts from.
        seed: of everything that is drawn.
        force: replace an earlier result of linzoo in ``out``, if its files are as linzoo wrote them.
        dry_run: settle everything, check all that can be told without reading the weights, write nothing.
        registry: where ids are looked up; built from all installed plugins when None.
        progress: called with the bytes of each tensor that is written; ``ConversionPlan.nbytes`` in all.

    Raises:
        UndecidedError: the evidence does not settle the variant or the prediction type.
        CheckpointError: the source or ``out`` cannot be used; nothing has changed then.
        UsageError: an option does not fit.
        PluginError: an id is unknown, or a plugin fails.
    """
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    planned = plan_conversion(
        source,
        init=init,
        plan=plan,
        variant=variant,
        prediction_type=prediction_type,
        linfusion=linfusion,
        base=base,
        dtype=dtype,
        seed=seed,
        registry=registry,
    )
    return execute(planned, Path(out), force=force, dry_run=dry_run, progress=progress)


def execute(
    plan: ConversionPlan,
    out: Path,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ConversionResult:
    """Write a planned conversion; see :func:`convert`.

    Raises:
        CheckpointError: as :func:`convert`.
    """
    with explain_os_errors(out):
        earlier = check_target(out, [checkpoint.path for checkpoint in plan.inputs.values()])
        free = _require_space(out, plan)
    if earlier is not None:
        earlier.check_replaceable(_known(plan), force)
    if dry_run:
        return ConversionResult(out, plan, written=False, free=free)
    plan = plan.prepared()
    settled = settled_part(plan)
    with ExitStack() as stack:
        stack.enter_context(plan.forgetting_on_refusal())
        hashes = {
            role: stack.enter_context(BackgroundDigests(files_read(checkpoint), checkpoint.store.stated))
            for role, checkpoint in plan.inputs.items()
        }
        folder = stack.enter_context(new_folder(out, replace=earlier is not None))
        outputs = {
            CONFIG_NAME: write_file(folder / CONFIG_NAME, encode_json(plan.config.to_json())),
            WEIGHTS_NAME: _write_weights(folder / WEIGHTS_NAME, plan, progress),
        }
        read = {role: each.result() for role, each in hashes.items()}
        for checkpoint in plan.inputs.values():
            checkpoint.check_unchanged()
        sources = {role: describe_source(plan.inputs[role], digests) for role, digests in read.items()}
        if (base := base_hash(plan.teacher)) is not None:
            sources["source"]["base_hash"] = base
        lock = {**sources, **settled, "outputs": describe_files(outputs)}
        if earlier is not None:
            earlier.check_replaceable(lock, force)
        write_file(folder / LOCK_NAME, encode_json(lock))
    plan.forget()
    return ConversionResult(out, plan, written=True, free=free, lock=lock)


def _require_space(out: Path, plan: ConversionPlan) -> int:
    """Return the free bytes where the result will be; what is fetched first needs room too, in the Hub's cache."""
    if not plan.to_fetch:
        return require_space(out, plan.disk)
    from linzoo.checkpoints.remote import ranges_folder

    require_space(ranges_folder(), plan.to_fetch)
    shared = same_disk(ranges_folder(), out)
    return require_space(out, plan.disk + plan.to_fetch if shared else plan.disk)


def _known(plan: ConversionPlan) -> dict[str, Any]:
    """What is known of the lock file before the init recipe has computed anything."""
    settled = settled_part(plan)
    if plan.init.prepare is not None:
        del settled["init"]
    return settled


def _write_weights(path: Path, plan: ConversionPlan, progress: Progress | None) -> Digest:
    tensors = {tensor.name: tensor for tensor in plan.init.tensors}
    specs = [TensorSpec(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors.values()]
    with SafetensorsWriter(path, specs, {"format": "pt"}) as writer:
        for spec in writer.order:
            with blamed_on(plan.recipe):
                data = tensors[spec.name].make()
            writer.write(spec.name, data)
            if progress is not None:
                progress(spec.nbytes)
    return Digest(writer.nbytes, writer.sha256)


def settled_part(plan: ConversionPlan) -> dict[str, Any]:
    """Return what ``linzoo.lock.json`` records of a conversion, as far as it is known before anything is hashed."""
    return {
        "lock_version": LOCK_VERSION,
        "command": "convert",
        "detection": {
            "variant": plan.inspection.variant,
            "prediction_type": plan.inspection.prediction_type,
            "confidence": plan.inspection.confidence,
            "evidence": plain(plan.inspection.evidence),
        },
        "versions": {
            "linzoo": __version__,
            "numpy": np.__version__,
            "ml_dtypes": ml_dtypes.__version__,
            "plugins": dict(plan.plugins),
        },
        "plan": describe_entry(plan.attention_plan.value) | {"kept_softmax": list(plan.kept)},
        "init": describe_entry(plan.recipe.value)
        | {
            "seed": plan.seed,
            "dtype": None if plan.dtype is None else dtype_name(plan.dtype),
            "measured": plain(plan.init.measured),
        },
        "tensors": {
            tensor.name: {"action": tensor.action, "sources": list(tensor.sources), "how": tensor.how}
            for tensor in plan.init.tensors
        },
    }
