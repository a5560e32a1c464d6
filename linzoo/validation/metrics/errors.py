"""What can go wrong when a figure is computed."""

from __future__ import annotations

from linzoo.errors import LinzooError


class MetricError(LinzooError):
    """Tensors do not fit together, or there are too few samples or pixels for the figure."""
