"""The tiny variant, for all tests in here."""

from __future__ import annotations

from validating import check, extend, opened
from zoo import linfusion, zoo

__all__ = ["check", "extend", "linfusion", "opened", "zoo"]
