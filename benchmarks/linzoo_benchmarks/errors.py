"""What benchmarks raise on purpose."""

from __future__ import annotations

from linzoo.errors import LinzooError


class BenchmarkError(LinzooError):
    """A benchmark cannot run, or what it was to time computes something else."""
