"""How each kernel is cut up: block sizes, warps, pipeline stages, per kernel, width and dtype, from a table per device.

A table is a JSON file in `configs/`: `sm_90.json` for devices with the shared memory and the matrix instructions of Hopper,
`sm_80.json` for all others, and one for each device that was tuned on the device itself. There is no tuning at run time: a
new resolution neither compiles nor measures anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ATTENTION = ("state_forward", "apply_forward", "apply_backward", "state_backward")
KERNELS = (*ATTENTION, "ln_leaky_relu")
DTYPES = ("float16", "bfloat16", "float32")
PRECISIONS = ("ieee", "tf32x3")
MOST_ROWS = 128
DIRECTORY = Path(__file__).parent / "configs"
TARGETS = ("sm_80", "sm_90")


class ConfigError(ValueError):
    """A table of kernel configs that cannot be used; the message names the file and the entry."""


@dataclass(frozen=True)
class KernelConfig:
    """How one kernel is launched, for one width and dtype.

    `width` is the head dim (for `ln_leaky_relu` the number of channels), `block_rows` the tokens of a tile.
    `programs_per_sm` is how many programs run at a time on a multiprocessor, which the split over tokens aims at.
    `precision` is how matrix products treat float32: "ieee", or "tf32x3", three tensor-core products of split operands.
    """

    kernel: str
    width: int
    dtype: str
    block_rows: int
    num_warps: int
    num_stages: int
    programs_per_sm: int
    precision: str = "ieee"

    def __post_init__(self) -> None:
        """Refuse what no kernel can run with."""
        for name in ("width", "block_rows", "num_warps", "num_stages", "programs_per_sm"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a positive integer")
        for name in ("block_rows", "num_warps"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ConfigError(f"{name} is {value}; it must be a power of two")
        if self.kernel != "ln_leaky_relu" and not 16 <= self.block_rows <= MOST_ROWS:
            raise ConfigError(f"block_rows is {self.block_rows}; attention takes 16 to {MOST_ROWS}")
        for name, known in (("kernel", KERNELS), ("dtype", DTYPES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")


def file_name(device_name: str) -> str:
    """The table's file name for a device, as `torch.cuda.get_device_name` calls it: "NVIDIA H200" is NVIDIA_H200.json."""
    return "_".join(device_name.split()) + ".json"


def load(path: Path) -> tuple[KernelConfig, ...]:
    """The configs of one table. An entry's `dtypes` share it; each (kernel, width, dtype) may occur once.

    Raises `ConfigError` for a file that is not a table, a value out of range, an unknown or missing field, a repetition.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["configs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a table of kernel configs ({error!r}); it wants {{'configs': [...]}}"
        ) from error
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: 'configs' must be a list, and is {type(entries).__name__}")
    configs: dict[tuple[str, int, str], KernelConfig] = {}
    for number, entry in enumerate(entries):
        try:
            fields: dict[str, Any] = dict(entry)
            for dtype in fields.pop("dtypes"):
                config = KernelConfig(dtype=dtype, **fields)
                if configs.setdefault((config.kernel, config.width, dtype), config) is not config:
                    raise ConfigError(f"{config.kernel}, width {config.width}, {dtype} occurs twice")
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{path}: entry {number} ({entry!r}): {error}") from error
    return tuple(configs.values())


@cache
def table(target: str, device_name: str = "") -> tuple[KernelConfig, ...]:
    """The configs for a target (one of `TARGETS`), after those of the device's own table where it has one."""
    paths = [DIRECTORY / file_name(device_name)] if device_name else []
    paths.append(DIRECTORY / file_name(target))
    return tuple(config for path in paths if path.exists() for config in load(path))


def find(kernel: str, width: int, dtype: str, target: str, device_name: str = "") -> KernelConfig:
    """The config of the nearest width that is not smaller, or else of the largest; a device's own before its target's.

    Raises `ConfigError` where no table has the kernel in this dtype.
    """
    candidates = [c for c in table(target, device_name) if (c.kernel, c.dtype) == (kernel, dtype)]
    if not candidates:
        raise ConfigError(f"no config for {kernel} in {dtype} for {target} in {DIRECTORY}")
    return min(candidates, key=lambda config: (config.width < width, abs(config.width - width)))
