"""Throw-away distributions for the tests of the registry."""

from dists import build, site

__all__ = ["build", "site"]
