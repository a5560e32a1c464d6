"""Opening a teacher as a diffusers pipeline, on the device where it will compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from linzoo.errors import UsageError

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.plugin.requests import DType
    from linzoo.registry import Registry


def open_pipeline(
    found: Inspection, registry: Registry, *, device: str | None = None, dtype: DType | None = None
) -> Any:
    """Build the pipeline of an inspected source.

    Args:
        found: what the source is.
        registry: whose plugins load teachers.
        device: torch device; None for a GPU where there is one.
        dtype: precision; None for float32 on a CPU and float16 elsewhere.

    Raises:
        UndecidedError: the evidence does not settle what the source is.
        UsageError: the model draws from more than a prompt, or torch cannot use the device.
        CheckpointError: it is no complete pipeline.
    """
    from linzoo.plugin import TeacherRequest

    require_text_to_image(found)
    variant, prediction_type = found.require()
    device = usable_device(device) if device else best_device()
    request = TeacherRequest(
        source=found.checkpoint.spec,
        path=found.checkpoint.path,
        variant=variant,
        prediction_type=prediction_type,
        dtype=dtype or ("float32" if device.startswith("cpu") else "float16"),
        device=device,
    )
    return registry.load_teacher(request).pipeline


def require_text_to_image(found: Inspection) -> None:
    """Refuse a model that draws from more than a prompt.

    Raises:
        UndecidedError: the evidence does not settle what the source is.
        UsageError: it is such a model.
    """
    variant, _ = found.require()
    if variant.fingerprint.in_channels != 4:
        raise UsageError(
            f"{found.checkpoint.spec}: this is {found.name}, which draws from a picture and not from a prompt alone."
        )


def usable_device(device: str) -> str:
    """Return the device if torch can compute there.

    Raises:
        UsageError: it cannot.
    """
    import torch

    try:
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"--device {device}: torch cannot compute there ({reason}). 'linzoo doctor' lists the devices."
        ) from error
    return device


def best_device() -> str:
    """A GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
