"""One UNet as its teacher, as the mounted student and as the folded one, in turn."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from linzoo.attention.fold import foldable
from linzoo.attention.handle import Handle
from linzoo.attention.mount import mounted_layers

TEACHER, STUDENT, FOLDED = "teacher", "student", "student, folded"


class Contenders:
    """Switches a mounted UNet between teacher, student and folded student; a ``with`` block ends with the student.

    There is one UNet in memory: mounting and unmounting exchange modules and copy no weights, so that a size fits which
    fits without this. Folded products are made anew at each switch to them, and gone after it, so that nobody else's
    memory holds them. A switch takes no part in what is timed: it belongs in ``Task.prepare``.

    Attributes:
        handle: the mounted checkpoint.
        names: who can be switched to; the folded student is missing where no layer can be folded.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.names = (TEACHER, STUDENT, FOLDED) if foldable(handle.modules) else (TEACHER, STUDENT)
        self._now = STUDENT
        self._stock = ExitStack()

    def __enter__(self) -> Contenders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.use(STUDENT)

    def use(self, who: str) -> None:
        """Let the UNet be ``who``, one of :attr:`names`."""
        if who == self._now:
            return
        self._stock.close()
        self.handle.unfold()
        self._now = STUDENT
        if who == TEACHER:
            self._stock.enter_context(self.handle.disabled())
        elif who == FOLDED:
            self.handle.fold()
        self._now = who

    def weights(self, who: str) -> int:
        """Bytes of the UNet's weights as ``who``.

        The student's are with the teacher's attentions, which wait for unmounting where the UNet computes, and with the
        products if it is folded.
        """
        self.use(who)
        return _held(self.handle.unet)

    def tokens(self, call: Any) -> int:
        """Tokens of the largest attention that was replaced, in ``call()`` of the UNet."""
        self.use(STUDENT)
        seen: list[int] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
            for layer in self.handle.modules.values()
        ]
        try:
            call()
        finally:
            for hook in hooks:
                hook.remove()
        return max(seen)


def _held(unet: torch.nn.Module) -> int:
    """Bytes of all tensors of a UNet on its device, what several share once."""
    device = next(unet.parameters()).device
    tensors: list[Tensor] = [*unet.parameters(), *unet.buffers()]
    for layer in mounted_layers(unet).values():
        for leaf in layer.teacher.values():
            tensors += leaf.parameters()
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.device == device]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
