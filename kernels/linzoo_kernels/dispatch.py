"""Which implementation runs: argument, then context, then the environment variable LINZOO_KERNELS, then automatic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from linzoo_kernels import launch

BACKENDS = ("auto", "reference", "torch", "compile", "triton")
VARIABLE = "LINZOO_KERNELS"

_OLDEST = (8, 0)
"""The compute capability, Ampere's, from which the kernels are compiled and tested."""

_of_thread: ContextVar[str] = ContextVar("linzoo_kernels_backend", default="auto")
_of_process: list[str] = []
"""The blocks that threads are in, the last one first: what torch.compile can trace, and guard compiled code on.

It is changed by single calls of list methods, which threads cannot interrupt.
"""


class BackendError(RuntimeError):
    """The backend that was asked for does not exist, or cannot run what it was given."""


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the block, calls that name no backend of their own take this one.

    It holds for the running thread (and asyncio task). Code under torch.compile is traced anew where the backend has
    changed; it goes by the block that was entered last, in whichever thread.

    Args:
        name: ``reference``, ``torch``, ``compile``, ``triton``, or ``auto``.

    Raises:
        BackendError: there is no such backend.
    """
    _check(name, "use_backend")
    traced = torch.compiler.is_compiling()
    token = None if traced else _of_thread.set(name)
    _of_process.insert(0, name)
    try:
        yield
    finally:
        _of_process.remove(name)
        if token is not None:
            _of_thread.reset(token)


def choose(argument: str, device: torch.device, obstacle: Callable[[], str | None]) -> str:
    """The backend that runs: ``reference``, ``torch``, ``compile`` or ``triton``.

    Args:
        argument: what the caller asked for.
        device: where the tensors are; left to itself, Triton is chosen for CUDA only.
        obstacle: why Triton cannot run this call, or None where it can.

    Raises:
        BackendError: there is no such backend, or Triton was asked for and cannot run.
    """
    name = requested(argument)
    if name not in ("auto", "triton"):
        return name
    if name == "auto" and device.type != "cuda":
        return "torch"
    reason = device_obstacle(device.type, device.index) or obstacle()
    if reason is None:
        return "triton"
    if name == "auto":
        return "torch"
    raise BackendError(f"backend 'triton' cannot run this: {reason}. Ask for backend 'torch', or for 'auto'.")


def requested(argument: str) -> str:
    """The backend asked for by argument, context or environment, in this order; else ``auto``."""
    _check(argument, "backend")
    if argument != "auto":
        return argument
    context = _in_context()
    if context != "auto":
        return context
    return _in_environment()


def device_obstacle(device_type: str, index: int | None) -> str | None:
    """Why the Triton kernels cannot run on a device, or None where they can."""
    return _device_obstacle(device_type, index)


# As torch.compiler.assume_constant_result does, which would import torch._dynamo, and triton with it, here and now.
device_obstacle._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache
def _device_obstacle(device_type: str, index: int | None) -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if device_type == "meta" or (device_type == "cuda" and not torch.cuda.is_available()):
        return None  # tensors without memory, of which only the shapes are computed
    if device_type == "cuda":
        return _cuda_obstacle(index)
    if device_type != "cpu":
        return f"its kernels are for CUDA devices, and the tensors are on {device_type}"
    if not launch.interpreted():
        return (
            "on a CPU Triton runs in its interpreter only (TRITON_INTERPRET=1, set before triton is imported)"
        )
    return None


def _cuda_obstacle(index: int | None) -> str | None:
    if torch.version.hip is not None:
        return "its kernels are for NVIDIA GPUs"
    capability = torch.cuda.get_device_capability(index)
    if capability < _OLDEST:
        name = torch.cuda.get_device_name(index)
        return f"its kernels need compute capability 8.0, and {name} has {capability[0]}.{capability[1]}"
    return None


@lru_cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` under torch.compile, whose failure to compile is a :class:`BackendError`."""
    optimised = torch.compile(function, dynamic=True)

    def run(*args: Any) -> Tensor:
        try:
            return optimised(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise BackendError(
                f"backend 'compile' cannot run this: {error}. Ask for backend 'torch', or for 'auto'."
            ) from error

    return run


def _in_context() -> str:
    if torch.compiler.is_compiling():
        return _of_process[0] if _of_process else "auto"
    return _of_thread.get()


def _in_environment() -> str:
    name = os.environ.get(VARIABLE) or "auto"
    _check(name, f"the environment variable {VARIABLE}")
    return name


def _check(name: str, where: str) -> None:
    if name not in BACKENDS:
        raise BackendError(f"{where}: there is no backend {name!r}. There are {', '.join(BACKENDS)}.")
