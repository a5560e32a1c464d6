"""One run of a benchmark: the machine it runs on, what that can do at most, and the file its rows go to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from linzoo_kernels import BackendError

from linzoo.errors import UsageError
from linzoo_benchmarks.environment import describe, free_bytes
from linzoo_benchmarks.errors import BenchmarkError
from linzoo_benchmarks.roofline import Ceilings, measure_ceilings
from linzoo_benchmarks.rows import COMMANDS, Row, RowFile
from linzoo_benchmarks.shapes import Shape

Say = Callable[[str], None]


class Named(Protocol):
    """A provider or a form."""

    name: str


NamedT = TypeVar("NamedT", bound=Named)


def present(wanted: Iterable[NamedT], missing: Callable[[NamedT], str | None], say: Say) -> list[NamedT]:
    """Those of ``wanted`` that can run on this machine; the others are named.

    Args:
        wanted: providers or forms.
        missing: why one cannot; None if it can.
        say: where those are named that cannot.

    Raises:
        BenchmarkError: none of them can.
    """
    reasons = {each: missing(each) for each in wanted}
    told = [f"{each.name} is left out: {reason}" for each, reason in reasons.items() if reason]
    found = [each for each, reason in reasons.items() if not reason]
    if not found:
        raise BenchmarkError("Nothing was measured: " + "; ".join(told) + ".")
    for line in told:
        say(line)
    return found


class Session:
    """Writes rows that all say the same of where they come from.

    Attributes:
        rows: what was written so far in this run.
        red: what gave a wrong result, a line each.
    """

    def __init__(self, kernel: str, device: torch.device, dtype: torch.dtype, out: Path, say: Say) -> None:
        """Open the file, then measure the ceilings.

        Raises:
            BenchmarkError: the file holds other columns.
            UsageError: the file holds the rows of another benchmark.
        """
        self.kernel, self.device, self.dtype, self.say = kernel, device, dtype, say
        self.file = RowFile(out)
        others = self.file.kernels() - {kernel}
        if others:
            raise UsageError(
                f"{out} holds rows of `{COMMANDS.get(min(others), min(others))}`, which those of `{COMMANDS[kernel]}` "
                "do not go with. Nothing was changed; give another file with --out."
            )
        self.environment = describe(device)
        self.ceilings: Ceilings = measure_ceilings(device, dtype)
        self.rows: list[Row] = []
        self.red: list[str] = []
        say(
            f"{self.environment.device}: copies {self.ceilings.copy_gbps:,.0f} GB/s, multiplies"
            f" {self.ceilings.gemm_tflops:,.2f} TFLOP/s in {self.dtype_name}"
        )

    @property
    def dtype_name(self) -> str:
        """Such as ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def seconds(self) -> float:
        """How long a call is timed."""
        return 0.25 if self.device.type == "cuda" else 0.5

    def record(self, shape: Shape, provider: str, function: str, mode: str, **measured: Any) -> None:
        """Write one row."""
        row = Row(
            kernel=self.kernel,
            provider=provider,
            function=function,
            mode=mode,
            shape=shape.name,
            batch=shape.batch,
            tokens=shape.tokens,
            heads=shape.heads,
            head_dim=shape.head_dim,
            dtype=self.dtype_name,
            **measured,
            **asdict(self.ceilings),
            **asdict(self.environment),
        )
        row = self.file.append(row)
        self.rows.append(row)
        self.say(f"{shape.name}  {mode}  {provider}: {summary(row)}")

    def reject(self, shape: Shape, provider: str, mode: str, problem: str) -> None:
        """Remember a wrong result; there is no row for it."""
        self.red.append(f"{provider}, {mode}, {shape.name}: {problem}")
        self.say(f"{shape.name}  {mode}  {provider}: NOT TIMED: {problem}")

    @contextlib.contextmanager
    def guarded(self, shape: Shape, provider: str, function: str, mode: str) -> Iterator[None]:
        """Go on with the others, whatever goes wrong in one of them: a row says why, or it is red."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.record(shape, provider, function, mode, note="out of memory")
        except BackendError as error:
            self.record(shape, provider, function, mode, note=str(error))
        except Exception as error:
            self.reject(shape, provider, mode, f"it failed: {error!r}")

    def finish(self) -> list[Row]:
        """The rows.

        Raises:
            BenchmarkError: something was red, or no row has a time.
        """
        if self.red:
            raise BenchmarkError("What is wrong was not timed:\n  " + "\n  ".join(self.red))
        if all(row.median is None for row in self.rows):
            reasons = dict.fromkeys(f"{row.provider}, {row.shape}: {row.note}" for row in self.rows)
            raise BenchmarkError("Nothing was measured:\n  " + "\n  ".join(reasons))
        return self.rows

    def lacks_memory(self, tensors: int, shape: Shape) -> str | None:
        """Why so many tensors of the shape do not fit; None if they do."""
        needed = tensors * shape.elements * self.dtype.itemsize
        free = free_bytes(self.device)
        return f"needs about {_size(needed)}, {_size(free)} free" if needed > free else None


def summary(row: Row) -> str:
    """The time of a row with its error and its share of the copy bandwidth; why there is none, if there is none."""
    if row.median is None:
        return row.note
    parts = [f"{row.median:.4g} ms"]
    if row.copy_fraction is not None:
        parts.append(f"{row.copy_fraction:.0%} of copy")
    if row.error is not None:
        parts.append(f"error {row.error:.1e}")
    return ", ".join(parts)


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e12:.3g} TB" if count >= 1e12 else f"{count / 1e9:.1f} GB"
