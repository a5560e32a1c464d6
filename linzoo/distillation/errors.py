"""What can go wrong in a distillation."""

from __future__ import annotations

from linzoo.errors import LinzooError, UsageError


class RecipeError(UsageError):
    """A distill recipe is not what it should be; names every fault with its line."""


class DataError(LinzooError):
    """Training data cannot be read, or a cache of it is damaged."""


class DistillationError(LinzooError):
    """A run cannot start, go on or be resumed."""
