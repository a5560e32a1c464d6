"""What can go wrong in a validation."""

from __future__ import annotations

from linzoo.errors import LinzooError


class ValidationError(LinzooError):
    """A validation cannot start or go on; what falls below a bar is no error but a verdict."""
