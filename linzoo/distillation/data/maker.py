"""What makes latents of items: the teacher that draws them, or the autoencoder that encodes pictures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from linzoo.distillation.data.cache import Cache, Record
from linzoo.distillation.data.items import Item, Size, Source

_PIXELS_AT_ONCE = 2**20
_MOST_AT_ONCE = 16


@dataclass(frozen=True)
class View:
    """One of an item's latents that can be made.

    Attributes:
        key: in the cache; says everything that the latents depend on, with what the maker is ``about``.
        base: index of the size of the recipe that it belongs to.
        size: width and height in pixels.
        kind: views of one kind can be made at once.
        name: of the item.
        details: what the maker needs besides.
    """

    key: str
    base: int
    size: Size
    kind: Hashable
    name: str
    details: Mapping[str, Any] = field(repr=False)


class Maker(Protocol):
    """Makes latents."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Everything that a view's latents depend on besides its key."""
        ...

    @property
    def choice(self) -> object:
        """Which views of an item are wanted, as JSON values."""
        ...

    def bytes_missing(self, source: Source, cache: Cache) -> int:
        """About how many bytes all processes together will write; 0 where nothing tells."""
        ...

    def views(self, item: Item) -> tuple[str, list[View]]:
        """A hash of what is held out as one, a picture or a prompt, and the item's views; raises ``Unusable``."""
        ...

    def ready(self, view: View) -> View:
        """The view with all that :meth:`make` needs, read; raises ``Unusable``."""
        ...

    def make(self, views: Sequence[View]) -> list[Record]:
        """Make the records of views of one kind: ``latents`` and what is known of them."""
        ...


def at_once(size: Size) -> int:
    """How many latents of a size are made at once: a megapixel, which every card that can train can draw."""
    return max(1, min(_MOST_AT_ONCE, _PIXELS_AT_ONCE // (size[0] * size[1])))


def stored_bytes(pipe: Any, size: Size) -> int:
    """Bytes of one float16 latent of a size."""
    factor, channels = int(pipe.vae_scale_factor), int(pipe.unet.config.in_channels)
    return channels * (size[0] // factor) * (size[1] // factor) * 2
