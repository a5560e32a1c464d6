"""The processes of a run, through accelerate: what is summed, shared and waited for; one process does none of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from linzoo.distillation.errors import DistillationError

if TYPE_CHECKING:
    from accelerate import Accelerator

_BUCKET = 1 << 24
"""Numbers that are summed over processes at once: 64 MiB of float32."""
_PATIENCE = timedelta(hours=12)
"""How long processes wait for the main one, which alone calibrates, measures and draws."""

Result = TypeVar("Result")


class Processes:
    """The processes of a run, seen from this one.

    Args:
        device: torch device; None for accelerate's choice, which is a GPU of its own for each process.

    Attributes:
        accelerator: accelerate's, for its trackers.
        device: where this process computes.
        rank, count: its place among the processes, and how many there are.
        main: whether this is the process that writes files and speaks.
    """

    def __init__(self, device: str | None = None) -> None:
        self.accelerator = _accelerator(device)
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        self.main: bool = self.accelerator.is_main_process
        alone = device is not None and self.count == 1
        self.device = torch.device(device) if device is not None and alone else self.accelerator.device

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace every gradient by its sum over the processes; a missing one counts as zero."""
        if self.count == 1:
            return
        for bucket in _buckets(parameters):
            flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in bucket])
            summed: Tensor = self.accelerator.reduce(flat, reduction="sum")
            pieces = summed.split([parameter.numel() for parameter in bucket])
            for parameter, piece in zip(bucket, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)

    def sum_scalars(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Sum scalars over the processes; each must have the same names."""
        names = sorted(values)
        if not names:
            return {}
        stacked = torch.stack([values[name].float() for name in names])
        if self.count > 1:
            stacked = self.accelerator.reduce(stacked, reduction="sum")
        return dict(zip(names, stacked.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.sum_scalars({"flag": torch.tensor(float(flag), device=self.device)})["flag"] > 0

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of the main process."""
        if self.count > 1:
            from accelerate.utils import broadcast

            with torch.no_grad():
                for tensor in tensors:
                    tensor.copy_(broadcast(tensor.detach().contiguous()))

    def in_main(self, work: Callable[[], Result]) -> Result:
        """Do work in the main process, which the others wait for; what it comes to, a small object, in all of them.

        Raises:
            DistillationError: it failed. In the main process its own error is raised.
        """
        if self.count == 1:
            return work()
        from accelerate.utils import broadcast_object_list

        failure: Exception | None = None
        told: list[Any] = [None, False]
        if self.main:
            try:
                told = [work(), False]
            except Exception as error:
                told, failure = [None, True], error
        result, failed = broadcast_object_list(told)
        if failed:
            raise failure or DistillationError("the main process failed; its own message says why")
        value: Result = result
        return value

    def gather(self, value: Any) -> list[Any]:
        """A small object of every process, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))


def leave() -> None:
    """Leave the group of processes, where there is one, before the program ends; torch warns of those who do not."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _accelerator(device: str | None) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    return Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
