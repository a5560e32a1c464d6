"""What the commands that draw share: opening a teacher, laying out sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from linzoo.cli.common import State

if TYPE_CHECKING:
    from linzoo.checkpoints.inspection import Inspection
    from linzoo.generate.compare import Pair, Settings
    from linzoo.generate.sheet import Sheet
    from linzoo.plugin.requests import DType


def open_teacher(
    found: Inspection, state: State, *, device: str | None = None, dtype: DType | None = None
) -> Any:
    """Build the pipeline of an inspected source; see :func:`linzoo.generate.teacher.open_pipeline`.

    Without ``-v`` the libraries' own messages are not shown.
    """
    from linzoo.generate.teacher import open_pipeline

    hush_libraries(state)
    return open_pipeline(found, state.registry, device=device, dtype=dtype)


def sheet_of(pairs: Sequence[Pair], title: str, settings: Settings, note: str = "") -> Sheet:
    """Lay teacher and student side by side, with what is needed to draw them again."""
    from linzoo.generate.sheet import Card, Sheet

    how = f"{settings.steps} steps, guidance {settings.guidance:g}; both start from the same noise."
    cards = [Card(pair.prompt, f"seed {pair.seed}", (pair.teacher, pair.student)) for pair in pairs]
    return Sheet(title, f"{note} {how}".strip(), ("teacher (softmax)", "student (linear)"), cards)


def hush_libraries(state: State) -> None:
    """Without ``-v``, keep diffusers and transformers from reporting on themselves and on optional packages."""
    if state.verbose:
        return
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
