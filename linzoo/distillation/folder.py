"""The folder of a run: what is written in it at the start and on the way, and what an earlier try left."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from linzoo._version import __version__
from linzoo.checkpoints.atomic import explain_os_errors, held, write_bytes
from linzoo.checkpoints.folder import read_json
from linzoo.checkpoints.lock import encode_json
from linzoo.distillation.document import dump
from linzoo.distillation.errors import DistillationError
from linzoo.distillation.log import METRICS_NAME, MetricsLog, Trackers
from linzoo.distillation.loop import Loop, Standing
from linzoo.distillation.planning import RECIPE_NAME, RUN_NAME, RunPlan, check_out
from linzoo.distillation.processes import Processes
from linzoo.distillation.progress import Progress
from linzoo.distillation.state import SavedState, States
from linzoo.plugin.requests import DistillRun

if TYPE_CHECKING:
    from linzoo.registry import Registry

_RUN_VERSION = 1
_STANDING = ("stage", "step", "kept_softmax", "measures", "best")


@contextmanager
def hold_folder(plan: RunPlan, processes: Processes) -> Iterator[None]:
    """Keep the folder of a run to this run for the length of the block; it is made, and if it stays empty, removed.

    Raises:
        CheckpointError: it cannot be written.
        DistillationError: another run works in it, or has done so since the plan was made.
    """
    with ExitStack() as stack:

        def hold() -> None:
            stack.enter_context(_held_alone(plan.out))
            check_out(plan.out, plan.resume)

        processes.in_main(hold)
        yield


@contextmanager
def _held_alone(out: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with explain_os_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_if_empty, out)
            with tempfile.TemporaryFile(dir=out):  # refused here, and not after hours of encoding
                pass
            try:
                stack.enter_context(held(out))
            except BlockingIOError as error:
                raise DistillationError(
                    f"another run works in {out}; wait for its end, or choose another --out"
                ) from error
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def open_folder(
    plan: RunPlan,
    identity: Mapping[str, Any],
    saved: SavedState | None,
    states: States,
    processes: Processes,
    progress: Progress,
    registry: Registry,
    stack: ExitStack,
) -> Loop:
    """Bring the folder to where the saved state left it, and open what is written in it on the way.

    Args:
        plan: the run.
        identity: what it is made from.
        saved: the state that it goes on from; None for a new run.
        states: where states are.
        processes: the run's processes; the main one alone writes.
        progress: what people are told.
        registry: whose plugins watch.
        stack: closes what is opened.

    Raises:
        CheckpointError: the folder cannot be written.
        PluginError: a plugin failed.
    """
    record = {} if saved is None else saved.record
    standing = Standing(identity, **{name: record[name] for name in _STANDING if name in record})
    loop = Loop(plan.settings, processes, standing, states, progress)

    def open_files() -> None:
        run = _write_down(plan, processes)
        states.drop_after(-1 if saved is None else standing.step)
        loop.metrics = MetricsLog(plan.out / METRICS_NAME, record.get("metrics_bytes", 0))
        stack.callback(loop.metrics.close)
        loop.trackers = Trackers(plan.settings.logging, plan.out, run, standing.step)
        stack.callback(loop.trackers.close)
        loop.callbacks = registry.distill_callbacks(
            DistillRun(
                variant=plan.variant.value,
                recipe=plan.recipe.name,
                document=plan.recipe.document,
                teacher=plan.teacher.checkpoint.spec,
                output=plan.out,
                steps=plan.steps,
            )
        )

    processes.in_main(open_files)
    return loop


def _write_down(plan: RunPlan, processes: Processes) -> str:
    """Write the resolved recipe and what the run is of; return the run's id, which it keeps when it goes on."""
    path = plan.out / RUN_NAME
    run: str = read_json(path)["id"] if path.exists() else secrets.token_hex(8)
    document = {
        "run_version": _RUN_VERSION,
        "id": run,
        "linzoo": __version__,
        "checkpoint": plan.checkpoint.spec,
        "teacher": plan.teacher.checkpoint.spec,
        "variant": plan.variant.value.id,
        "recipe": {
            "name": plan.recipe.name,
            "source": plan.recipe.source,
            "preset": plan.recipe.preset,
            "sha256": plan.recipe.sha256,
        },
        "steps": plan.steps,
        "processes": processes.count,
        "device": str(processes.device),
        "torch": torch.__version__,
    }
    write_bytes(path, encode_json(document))
    write_bytes(plan.out / RECIPE_NAME, dump(plan.settings).encode())
    return run
