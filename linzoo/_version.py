"""The version, in a file of its own so that the command line reads it without package metadata."""

__version__ = "0.1.0"
