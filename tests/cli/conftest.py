"""Throw-away distributions, and the tiny variant, for the tests of the command line."""

from dists import build, site
from zoo import linfusion, zoo

__all__ = ["build", "linfusion", "site", "zoo"]
