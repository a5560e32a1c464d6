"""What can go wrong while mini is made."""

from linzoo.errors import LinzooError


class MiniError(LinzooError):
    """A step of the mini recipe cannot go on; the message says what is missing and what to do."""
