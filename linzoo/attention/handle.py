"""``linzoo.load``: mount a LinFusion checkpoint in a pipeline, and the handle to take it out again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from linzoo.attention.errors import MountError
from linzoo.attention.fold import fold, foldable, unfold
from linzoo.attention.linfusion import LinFusion
from linzoo.attention.mount import mount, mounted_layers, refuse_hooks, refuse_mounted, unmount
from linzoo.attention.mounted import MountedAttention
from linzoo.checkpoints.linfusion import LinFusionConfig
from linzoo.checkpoints.linfusion_folder import open_linfusion
from linzoo.checkpoints.source import Checkpoint
from linzoo.errors import CheckpointError, UsageError
from linzoo.zoo.choice import AUTO, choose

if TYPE_CHECKING:
    from linzoo.registry import Registry

_LOG = logging.getLogger("linzoo")
_SHOWN = 3
FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that weights may have, by their safetensors codes."""


class Handle:
    """A LinFusion checkpoint that is mounted in a UNet; :func:`load` returns it.

    Attributes:
        unet: the UNet (or ControlNet).
        linfusion: the checkpoint's modules; the mounted layers share their weights, so that
            ``linfusion.save_pretrained(folder)`` writes what is mounted now.
        source: where the checkpoint was read from.
        min_tokens: see :func:`load`.
        why: why ``"auto"`` chose this checkpoint; empty for one that was named.
    """

    def __init__(
        self, unet: nn.Module, linfusion: LinFusion, source: str, min_tokens: int, why: str = ""
    ) -> None:
        self.unet = unet
        self.linfusion = linfusion
        self.source = source
        self.min_tokens = min_tokens
        self.why = why
        self._unloaded = False
        mount(unet, linfusion, min_tokens=min_tokens)

    @property
    def modules(self) -> dict[str, MountedAttention]:
        """The mounted layers by name; empty after :meth:`unload`."""
        return {} if self._unloaded else mounted_layers(self.unet)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The teacher again, for the length of a ``with`` block: a stock UNet, which may be drawn with or saved.

        Does nothing where the teacher stands already: in another such block, or after :meth:`unload`. Folded layers are
        folded anew afterwards.
        """
        if not self.modules:
            yield
            return
        folded = self.folded
        unmount(self.unet)
        try:
            yield
        finally:
            if not self._unloaded:
                mount(self.unet, self.linfusion, min_tokens=self.min_tokens)
                if folded:
                    self.fold()

    @property
    def folded(self) -> bool:
        """Whether layers are folded."""
        return any(layer.folded is not None for layer in foldable(self.modules).values())

    def fold(self) -> None:
        """Let the layers compute with products of their weights, made now and once: less memory and memory traffic.

        The output is the same up to rounding; the weights, every ``state_dict`` and what ``save_pretrained`` writes are
        the same bits. It costs memory, see docs/mounting.md. Fold when the weights are final: a folded layer whose
        weights change, or that a LoRA is loaded on, raises an error when it is used next. To fold again renews what no
        longer holds. Layers of other mixers are left as they are.

        Raises:
            FoldError: a layer carries adapters, or its weights are quantised or not in memory; then no layer is folded.
            MountError: nothing is mounted, or an offloading, casting or caching hook is on a layer.
        """
        layers = self.modules
        if not layers:
            remedy = "load it again" if self._unloaded else "leave the 'with handle.disabled():' block"
            raise MountError(
                f"LinFusion is not mounted here now, so there is nothing to fold; {remedy} first."
            )
        refuse_hooks(self.unet, layers, "Fold")
        fold(layers)

    def unfold(self) -> None:
        """Undo :meth:`fold`: the layers compute with their weights again. Does nothing if they do."""
        unfold(self.modules)

    def unload(self) -> None:
        """Give the teacher's attentions back for good; see :func:`linzoo.attention.mount.unmount`.

        The handle has no part in what is mounted in the UNet later.
        """
        if not self._unloaded:
            unmount(self.unet)
            self._unloaded = True

    def __repr__(self) -> str:
        layers = len(self.modules)
        state = f"{layers} layers linear" if layers else ("unloaded" if self._unloaded else "disabled")
        folded = ", folded" if self.folded else ""
        softmax = f", softmax below {self.min_tokens} tokens" if self.min_tokens else ""
        why = f"; chosen: {self.why}" if self.why else ""
        return f"<linzoo.Handle {self.source}: {state} in {type(self.unet).__name__}{folded}{softmax}{why}>"


def load(
    pipe_or_unet: Any,
    checkpoint: str | Path,
    *,
    min_tokens: int = 0,
    index: str | Path | None = None,
    registry: Registry | None = None,
) -> Handle:
    """Mount a LinFusion checkpoint in a pipeline, before or after LoRA, ControlNet and IP-Adapter.

    Args:
        pipe_or_unet: a diffusers pipeline with a ``unet``, or the UNet (or ControlNet) itself.
        checkpoint: a folder with ``config.json`` and ``diffusion_pytorch_model.safetensors``, or
            ``user/repo`` on the Hub; ``"auto"`` chooses from indexes what was made for this UNet (docs/zoo.md). The handle's
            ``why`` says why; so does the logger ``linzoo``, as a warning where it was made for another model.
        min_tokens: a layer that is given fewer tokens than this computes the teacher's own softmax attention
            instead, which is faster there; decided at each call. The number of tokens at the first level is
            (height / 8) x (width / 8).
        index: for ``"auto"``: a file, or ``hf://datasets/user/name``, to choose from besides what plugins declare; None
            for those that the variable ``LINZOO_ZOO`` names.
        registry: where mixers other than generalized linear attention are looked up; None for all installed.

    Returns:
        The handle with ``disabled()``, ``fold()`` and ``unload()``.

    Raises:
        CheckpointError: the folder is no complete LinFusion checkpoint.
        MountError: it does not fit this UNet, or one is mounted already.
        UsageError: there is no UNet, ``min_tokens`` is negative, or there is an ``index`` and nothing to choose.
        ZooError, UndecidedError: ``"auto"`` finds nothing, or several that would do as well.
    """
    if min_tokens < 0:
        raise UsageError(f"min_tokens must not be negative, got {min_tokens}.")
    if index is not None and checkpoint != AUTO:
        raise UsageError(
            f"index is where {AUTO!r} chooses from; it does not go with a checkpoint that is named."
        )
    unet = getattr(pipe_or_unet, "unet", pipe_or_unet)
    unet = getattr(unet, "_orig_mod", unet)  # what torch.compile wraps
    if not isinstance(unet, nn.Module):
        raise UsageError(f"A {type(pipe_or_unet).__name__} has no UNet that LinFusion could be mounted in.")
    refuse_mounted(unet)  # before anything is fetched
    why = ""
    if checkpoint == AUTO:
        checkpoint, why = _choose(pipe_or_unet, unet, index, registry)
    return Handle(unet, read_linfusion(checkpoint, registry=registry), str(checkpoint), min_tokens, why)


def _choose(
    pipe: Any, unet: nn.Module, index: str | Path | None, registry: Registry | None
) -> tuple[str, str]:
    """What to mount in a UNet, and why."""
    if registry is None:
        from linzoo.registry import build_registry

        registry = build_registry()
    choice = choose(pipe, unet, index, registry)
    _LOG.log(logging.WARNING if choice.doubtful else logging.INFO, "%s", choice.why)
    return choice.entry.checkpoint, choice.why


def read_linfusion(checkpoint: str | Path, *, registry: Registry | None = None) -> LinFusion:
    """Read a LinFusion checkpoint; nothing missing, nothing left over, all shapes as its config declares.

    Raises:
        CheckpointError: not a complete LinFusion checkpoint; names the first tensors that are at fault.
    """
    opened, config = open_linfusion(checkpoint, registry=registry)
    linfusion = announced(config, registry)
    _check_tensors(opened, linfusion)
    weights = {name: read_tensor(opened, name) for name in linfusion.state_dict()}
    linfusion.load_state_dict(weights, strict=True, assign=True)
    linfusion.eval()
    return linfusion


def read_tensor(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """Read one tensor of a checkpoint as it is on disk."""
    info = checkpoint.tensors[name]
    return torch.frombuffer(checkpoint.read_bytes(name), dtype=FLOATING[info.dtype]).reshape(info.shape)


def tensor_problems(checkpoint: Checkpoint, linfusion: LinFusion) -> dict[str, list[str]]:
    """The tensors of a file that are not what its config announces, by what is wrong with them."""
    expected = {name: tuple(tensor.shape) for name, tensor in linfusion.state_dict().items()}
    found = checkpoint.tensors
    there = [name for name in expected if name in found]
    problems = {
        "missing": [name for name in expected if name not in found],
        "not announced by config.json": [name for name in found if name not in expected],
        "of another shape than config.json says": [n for n in there if found[n].shape != expected[n]],
        "not floating-point numbers": [n for n in there if found[n].dtype not in FLOATING],
    }
    return {problem: names for problem, names in problems.items() if names}


def announced(config: LinFusionConfig, registry: Registry | None) -> LinFusion:
    """The modules that a checkpoint's config announces, without memory for their weights."""
    with torch.device("meta"):
        linfusion: LinFusion = LinFusion(modules_list=config.to_json()["modules_list"], registry=registry)
    return linfusion


def _check_tensors(checkpoint: Checkpoint, linfusion: LinFusion) -> None:
    for problem, names in tensor_problems(checkpoint, linfusion).items():
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise CheckpointError(
            f"{checkpoint.path}: {len(names)} of {len(linfusion.state_dict())} tensors are {problem} ({shown}). The "
            "checkpoint is damaged, or its config.json belongs to another one; write or download it again."
        )
