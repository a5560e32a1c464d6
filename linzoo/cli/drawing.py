"""What the commands that draw share: opening a teacher, choosing where to compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from linzoo.cli.common import State
from linzoo.errors import UsageError

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.generate.compare import Pair, Settings
    from linzoo.generate.sheet import Sheet

DType = Literal["float32", "float16", "bfloat16"]


def open_teacher(
    found: Inspection, state: State, *, device: str | None = None, dtype: DType | None = None
) -> Any:
    """Build the pipeline of an inspected source.

    Args:
        found: what the source is.
        state: the run; with ``-v`` the libraries' own messages are shown.
        device: torch device; None for a GPU where there is one.
        dtype: precision; None for float32 on a CPU and float16 elsewhere.

    Raises:
        UndecidedError: the evidence does not settle what the source is.
        UsageError: the model draws from more than a prompt, or torch cannot use the device.
        CheckpointError: it is no complete pipeline.
    """
    from linzoo.plugin import TeacherRequest

    variant, prediction_type = found.require()
    if variant.fingerprint.in_channels != 4:
        raise UsageError(
            f"{found.checkpoint.spec}: this is {found.name}, which draws from a picture and not from a prompt alone."
        )
    if not state.verbose:
        _hush_libraries()
    device = _usable(device) if device else _best_device()
    request = TeacherRequest(
        source=found.checkpoint.spec,
        path=found.checkpoint.path,
        variant=variant,
        prediction_type=prediction_type,
        dtype=dtype or ("float32" if device == "cpu" else "float16"),
        device=device,
    )
    return state.registry.load_teacher(request).pipeline


def sheet_of(pairs: Sequence[Pair], title: str, settings: Settings, note: str = "") -> Sheet:
    """Lay teacher and student side by side, with what is needed to draw them again."""
    from linzoo.generate.sheet import Card, Sheet

    how = f"{settings.steps} steps, guidance {settings.guidance:g}; both start from the same noise."
    cards = [Card(pair.prompt, f"seed {pair.seed}", (pair.teacher, pair.student)) for pair in pairs]
    return Sheet(title, f"{note} {how}".strip(), ("teacher (softmax)", "student (linear)"), cards)


def _usable(device: str) -> str:
    import torch

    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--device {device}: torch cannot compute there ({reason}). 'linzoo doctor' lists the devices."
        ) from error
    return device


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _hush_libraries() -> None:
    """Diffusers and transformers report on their own progress and on optional packages at every import."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
