"""The tiny variant, for all tests in here."""

from __future__ import annotations

from zoo import linfusion, zoo

__all__ = ["linfusion", "zoo"]
