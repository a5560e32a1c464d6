"""What a device can do at most, measured in the same run as what is compared with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from linzoo_benchmarks.timing import Task, round_robin


@dataclass(frozen=True)
class Ceilings:
    """Attributes:
    copy_gbps: gigabytes a second of a large copy, read and written bytes counted.
    gemm_tflops: 10¹² floating-point operations a second of a large square matrix product.
    """

    copy_gbps: float
    gemm_tflops: float


def measure_ceilings(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> Ceilings:
    """Copy and multiply tensors too large for any cache, full of noise: zeros are faster than real data."""
    large = device.type == "cuda"
    source = torch.randn(2**28 if large else 2**25, device=device)
    target = torch.empty_like(source)
    size = 8192 if large else 1024
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    tasks = {"copy": Task(lambda _: target.copy_(source)), "gemm": Task(lambda _: left @ right)}
    times = round_robin(tasks, device, seconds)
    return Ceilings(
        copy_gbps=2 * source.nbytes / times["copy"].median / 1e6,
        gemm_tflops=2 * size**3 / times["gemm"].median / 1e9,
    )
