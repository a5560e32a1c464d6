"""Throw-away distributions for the tests of the documentation."""

from dists import build, site

__all__ = ["build", "site"]
