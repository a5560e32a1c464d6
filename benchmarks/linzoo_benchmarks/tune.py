"""Block sizes for a GPU, found by time on the GPU itself: a table for ``kernels/linzoo_kernels/configs``.

    python -m linzoo_benchmarks.tune --out OUT        writes OUT/NVIDIA_H200.json, for instance; minutes

The shipped configs are chosen by what the compiler reports. Starting from them, one field after the other takes each of its
other values, and keeps the one that is faster by more than the noise. Half precision, SD-XL's 4096 px at batch 2. Once the
table lies in ``configs``, the package's tests run with it, and ``linzoo bench kernels`` says what it brought.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from linzoo_kernels import EPS, configs, launch
from linzoo_kernels.configs import KernelConfig
from torch import Tensor

from linzoo_benchmarks.timing import Task, Timing, round_robin

BATCH, TOKENS, CHANNELS = 2, 65_536, 640
HEAD_DIMS = {64: 64, 128: 80, 160: 160}
"""By the width of a config, the head dim that it is timed with: the one that SD models have."""

VALUES = {"num_stages": (1, 2, 3, 4), "block_rows": (16, 32, 64, 128), "num_warps": (4, 8), "programs_per_sm": (1, 2, 3, 4)}  # fmt: skip
GAIN = 0.02
"""A config replaces another that takes longer by more than this."""

DIFFERENCE = 1e-2
"""The most that a result may differ from that of the shipped config, relatively."""

Clock = Callable[[Mapping[str, Task], torch.device, float], dict[str, Timing]]
Call = Callable[[], tuple[Tensor, ...]]


def tune(device: torch.device, dtype: torch.dtype, tokens: int = TOKENS, clock: Clock = round_robin) -> Iterator[KernelConfig]:  # fmt: skip
    """The best config found of every attention kernel and width, one after the other.

    Args:
        device: where the kernels run.
        dtype: of q, k and v.
        tokens: of each of the two batch entries.
        clock: times tasks, as :func:`linzoo_benchmarks.timing.round_robin` does.
    """
    name = str(dtype).removeprefix("torch.")
    for width, head_dim in HEAD_DIMS.items():
        calls = _calls(device, dtype, tokens, head_dim)
        for kernel, call in calls.items():
            yield _best(configs.find(kernel, width, name, *launch.tables(device)), call, device, clock)


def save(found: list[KernelConfig], out: Path, device_name: str) -> Path:
    """Write a table that serves both half precisions, under the name by which a device's own table is looked up."""
    shared = ({k: v for k, v in asdict(each).items() if k not in {"dtype", "precision"}} for each in found)
    entries = [json.dumps({**each, "dtypes": ["float16", "bfloat16"]}) for each in shared]
    out.mkdir(parents=True, exist_ok=True)
    path = out / configs.file_name(device_name)
    path.write_text('{"configs": [\n  ' + ",\n  ".join(entries) + "\n]}\n", encoding="utf-8")
    configs.load(path)
    return path


def _best(config: KernelConfig, call: Call, device: torch.device, clock: Clock) -> KernelConfig:
    """Field by field the fastest value, each beside the best so far in the same turns."""
    expected = _numbers(call())
    for field, values in VALUES.items():
        tried = {str(value): replace(config, **{field: value}) for value in values}  # type: ignore[arg-type]
        tasks = {
            name: _task(each, call)
            for name, each in tried.items()
            if each == config or _agrees(each, call, expected)
        }
        times = {name: timing.median for name, timing in clock(tasks, device, 0.1).items()}
        fastest = min(times, key=times.__getitem__)
        if times[fastest] < (1 - GAIN) * times[str(getattr(config, field))]:
            config = tried[fastest]
    return config


def _task(config: KernelConfig, call: Call) -> Task:
    def run(_: None) -> tuple[Tensor, ...]:
        with launch.substituted(config):
            return call()

    return Task(run)


def _numbers(results: tuple[Tensor, ...]) -> Tensor:
    """All numbers of the results, each result as large as the others."""
    return torch.cat([(each / each.norm()).double().flatten() for each in results])


def _agrees(config: KernelConfig, call: Call, expected: Tensor) -> bool:
    """Whether the config fits the device and gives the same numbers."""
    from triton.runtime.errors import TritonError

    try:
        with launch.substituted(config):
            result = _numbers(call())
    except TritonError:  # more shared memory or registers than there are
        return False
    return float((result - expected).norm() / expected.norm()) < DIFFERENCE


def _calls(device: torch.device, dtype: torch.dtype, tokens: int, head_dim: int) -> dict[str, Call]:  # fmt: skip
    """Each kernel on inputs that are made once."""
    heads = max(1, CHANNELS // head_dim)
    random = torch.Generator(device).manual_seed(0)
    q, k, v, do = (
        torch.randn(BATCH, tokens, heads * head_dim, dtype=dtype, device=device, generator=random)
        for _ in range(4)
    )
    sums = launch.state_forward(k, v, heads)
    _, dsums = launch.apply_backward(q, sums, do, tokens, heads, EPS)
    return {
        "state_forward": lambda: (launch.state_forward(k, v, heads),),
        "apply_forward": lambda: (launch.apply_forward(q, sums, tokens, heads, EPS),),
        "apply_backward": lambda: launch.apply_backward(q, sums, do, tokens, heads, EPS),
        "state_backward": lambda: launch.state_backward(k, v, dsums, heads),
    }


def main() -> None:
    """Tune the first GPU and write its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the table")
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device to tune for")
    device = torch.device("cuda", 0)
    found = []
    for config in tune(device, torch.bfloat16):
        print(config, flush=True)
        found.append(config)
        path = save(found, out, torch.cuda.get_device_name(device))
    print(f"Wrote {path}")


if __name__ == "__main__":
    main()
