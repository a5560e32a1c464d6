"""What goes wrong with an index of LinFusion checkpoints."""

from __future__ import annotations

from linzoo.errors import LinzooError


class ZooError(LinzooError):
    """An index cannot be read or written, or holds nothing that would do."""
