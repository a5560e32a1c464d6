"""Throw-away distributions for the tests of the command line."""

from dists import build, site

__all__ = ["build", "site"]
