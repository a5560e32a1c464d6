"""The rows that a benchmark leaves: a CSV file that grows while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from linzoo_benchmarks.csvfile import CsvFile, Format
from linzoo_benchmarks.errors import BenchmarkError

COMMANDS = {"linear_attention": "linzoo bench kernels", "layer": "linzoo bench layer"}
"""What measures each kernel."""


@dataclass(frozen=True)
class Row:
    """One provider on one shape in one mode. What was not measured is None; why stands in ``note``.

    Attributes:
        kernel: ``linear_attention`` (q, k, v in, o out) or ``layer`` (x in, x out).
        function: what it computes: ``linear``, ``softmax`` or ``causal linear``. Only equal ones can replace each other.
        mode: ``forward`` (without gradients), ``backward``, ``forward+backward``, or ``graph``: forward, replayed from a
            CUDA graph.
        median, q20, q80: milliseconds of one call; on a GPU on the device, with the call queued beforehand.
        host: milliseconds that such a call kept the host busy: what a GPU with nothing else to do waits for.
        gbps: the fewest bytes that the operation can move (q, k, v, o and their gradients once) over the median.
        copy_fraction: ``gbps`` over ``copy_gbps``.
        error: root-mean-square error over that of the float64 reference: of o, or the worst of the gradients.
        peak_mb: most memory that the call held, its result included.
        units: bytes that its operations read and write on a GPU, a token, in units of C numbers of ``dtype``; counted,
            not measured, so that there are such on a CPU too.
        launches: operations that a GPU launches, one of linzoo_kernels counted as one; likewise.
        copy_gbps, gemm_tflops: what the device can do, measured in the same run.
    """

    kernel: str
    provider: str
    function: str
    mode: str
    shape: str
    batch: int
    tokens: int
    heads: int
    head_dim: int
    dtype: str
    median: float | None = None
    q20: float | None = None
    q80: float | None = None
    host: float | None = None
    gbps: float | None = None
    copy_fraction: float | None = None
    error: float | None = None
    peak_mb: float | None = None
    units: float | None = None
    launches: int | None = None
    note: str = ""
    copy_gbps: float | None = None
    gemm_tflops: float | None = None
    device: str = ""
    torch: str = ""
    triton: str = ""
    linzoo: str = ""
    commit: str = ""
    timestamp: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """A later row with the same key is another run of the same measurement."""
        return (
            self.kernel, self.provider, self.mode, self.batch, self.tokens, self.heads, self.head_dim,
            self.dtype, self.device,
        )  # fmt: skip

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(batch, tokens, heads, head_dim)."""
        return self.batch, self.tokens, self.heads, self.head_dim


FORMAT = Format(Row, tuple(COMMANDS.values()))
COLUMNS = FORMAT.columns
SUBJECT = ("kernel", "dtype", "device")
"""Columns that times have to agree in before they compare."""


class RowFile(CsvFile[Row]):
    """The CSV file of one benchmark."""

    def __init__(self, path: Path) -> None:
        """Open or make the file; see :class:`CsvFile`."""
        super().__init__(path, FORMAT)

    def kernels(self) -> set[str]:
        """What the rows that are there already are about.

        Raises:
            BenchmarkError: a row cannot be read.
        """
        return {row.kernel for row in self.rows()}


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """The rows of CSV files, of each measurement the last.

    Raises:
        BenchmarkError: a file is no such CSV, or has no rows.
    """
    rows: dict[tuple[object, ...], Row] = {}
    for path in paths:
        found = FORMAT.read(path)
        if not found:
            raise BenchmarkError(f"{path} has no rows.")
        rows |= {row.key: row for row in found}
    return list(rows.values())


def differing(rows: Sequence[Row]) -> list[str]:
    """In which columns of :data:`SUBJECT` rows differ, so that they have to be told apart."""
    return [name for name in SUBJECT if len({getattr(row, name) for row in rows}) > 1]


def pairs(rows: Iterable[Row], one: str, other: str) -> list[tuple[Row, Row]]:
    """The rows of two providers that can be compared: same shape and mode, and measured in the same run."""

    def what(row: Row) -> tuple[object, ...]:
        return row.kernel, row.mode, row.sizes, row.dtype, row.device, row.timestamp

    rows = list(rows)
    others = {what(row): row for row in rows if row.provider == other}
    return [(row, others[what(row)]) for row in rows if row.provider == one and what(row) in others]
