"""Where a figure comes from: device, versions, commit and time, as they stand in every row."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from linzoo._version import __version__


@dataclass(frozen=True)
class Environment:
    """What a row says about its origin.

    Attributes:
        device: name of the GPU, or of the processor with the number of threads that torch uses.
        commit: of the checkout, with ``-dirty`` behind it where files were changed. ``LINZOO_COMMIT`` names it for a
            copy of the tree without its history.
        timestamp: when the run started, UTC.
    """

    device: str
    torch: str
    triton: str
    linzoo: str
    commit: str
    timestamp: str


def describe(device: torch.device) -> Environment:
    """Look at the machine and the checkout."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return Environment(
        device=_device_name(device),
        torch=torch.__version__,
        triton=_version("triton"),
        linzoo=__version__,
        commit=os.environ.get("LINZOO_COMMIT") or _commit(),
        timestamp=now.isoformat(timespec="seconds"),
    )


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads != 1 else ''}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
