"""The errors that linzoo raises on purpose. Each message says what is wrong, where, and what to do."""

from __future__ import annotations


class LinzooError(Exception):
    """Something that the user can act on; the command line prints it without a traceback.

    ``exit_code`` is what the command line exits with: 1 failed, 2 wrong usage, 3 undecided.
    """

    exit_code = 1


class UsageError(LinzooError):
    """The call itself is wrong: an option that does not fit, a value that cannot be."""

    exit_code = 2


class UndecidedError(LinzooError):
    """The evidence does not settle the question; the message names the option that does."""

    exit_code = 3


class CheckpointError(LinzooError):
    """A file or folder of weights cannot be used: damaged, hostile, incomplete or of another kind."""


class PluginError(LinzooError):
    """A plugin, or a reference to something that a plugin provides, is at fault."""
