"""What can go wrong when a mixer is put in an attention's place, or is asked for what it cannot do."""

from __future__ import annotations

from linzoo.errors import LinzooError


class MountError(LinzooError):
    """The LinFusion checkpoint and the UNet do not fit each other, or the UNet's state forbids the change."""


class UnsupportedAttentionError(LinzooError, NotImplementedError):
    """A mounted layer was asked for something that linear attention does not have, such as attention maps."""


class FoldError(LinzooError):
    """A mounted layer cannot be folded as it is, or is folded and no longer what it was folded from."""
