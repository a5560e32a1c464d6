"""The self-attentions of Stable Diffusion by model, level and image size: what the benchmarks run on."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from linzoo.errors import UsageError


@dataclass(frozen=True)
class Shape:
    """q, k and v of one self-attention: each (batch, tokens, heads * head_dim).

    Attributes:
        name: such as ``sdxl-0-4096px-b2``: model, level, pixels along an edge, batch; or ``2x65536x10x64``.
    """

    name: str
    batch: int
    tokens: int
    heads: int
    head_dim: int

    @property
    def channels(self) -> int:
        """C: the width of a token."""
        return self.heads * self.head_dim

    @property
    def elements(self) -> int:
        """Numbers in one of q, k, v."""
        return self.batch * self.tokens * self.channels

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """What makes two shapes the same, whatever their names."""
        return self.batch, self.tokens, self.heads, self.head_dim


@dataclass(frozen=True)
class Level:
    """A depth of a UNet at which there is self-attention.

    Attributes:
        edge: pixels of the image along the edge of one token.
        layers: how many self-attentions there are; the last level counts those of the middle block too where they
            see as many tokens.
    """

    edge: int
    heads: int
    head_dim: int
    layers: int


MODELS: dict[str, tuple[Level, ...]] = {
    "sdxl": (Level(16, 10, 64, 10), Level(32, 20, 64, 60)),
    "sd15": (Level(8, 8, 40, 5), Level(16, 8, 80, 5), Level(32, 8, 160, 5), Level(64, 8, 160, 1)),
    "sd21": (Level(8, 5, 64, 5), Level(16, 10, 64, 5), Level(32, 20, 64, 5), Level(64, 20, 64, 1)),
}
"""Levels from the outermost to the middle block."""

PIXELS = (4096, 1024, 16384, 2048, 512)
"""Edges of the images, those that say most first: a run that is cut short has them."""

FBI_LA = tuple(
    Shape(f"fbi_la-{tokens}", 8, tokens, 16, 64) for tokens in (16384, 8192, 4096, 2048, 1024, 512, 256, 128)
)
"""The table in the readme of flash-bidirectional-linear-attention, a shape with enough heads to fill a GPU."""


def model_shape(model: str, level: int, pixels: int, batch: int) -> Shape:
    """The self-attention of one level of a model for a square image."""
    at = MODELS[model][level]
    return Shape(
        f"{model}-{level}-{pixels}px-b{batch}", batch, (pixels // at.edge) ** 2, at.heads, at.head_dim
    )


def all_shapes() -> list[Shape]:
    """Every shape by name, the most telling first."""
    shapes = [
        model_shape(model, level, pixels, batch)
        for batch in (2, 1)
        for pixels in PIXELS
        for model, levels in MODELS.items()
        for level in range(len(levels))
    ]
    return [*shapes, *FBI_LA]


def small_shapes() -> list[Shape]:
    """What a CPU gets through in minutes."""
    return select_shapes(
        ["sdxl-*-1024px-b1", "sdxl-*-512px-b1", "sd15-[012]-1024px-b1", "sd15-[012]-512px-b1"]
    )


def select_shapes(wanted: Sequence[str]) -> list[Shape]:
    """The shapes that names, patterns of names (``sdxl-*-b2``) or sizes (``2x65536x10x64``) stand for.

    Raises:
        UsageError: one of them stands for none.
    """
    found = []
    for text in wanted:
        sizes = re.fullmatch(r"(\d+)x(\d+)x(\d+)x(\d+)", text)
        if sizes:
            if not all(map(int, sizes.groups())):
                raise UsageError(f"Sizes of {text!r} must be positive.")
            found.append(Shape(text, *map(int, sizes.groups())))
            continue
        matching = [shape for shape in all_shapes() if fnmatch.fnmatchcase(shape.name, text)]
        if not matching:
            raise UsageError(
                f"No shape is called {text!r}. Name a pattern such as 'sdxl-*-4096px-b2' or 'fbi_la-*', "
                "or give sizes as BATCHxTOKENSxHEADSxHEAD_DIM, such as 2x65536x10x64."
            )
        found += matching
    return distinct(found)


def distinct(shapes: Iterable[Shape]) -> list[Shape]:
    """Each of the same sizes once, under its first name: SDXL's levels are levels of SD 2.1 too."""
    by_sizes: dict[tuple[int, ...], Shape] = {}
    for shape in shapes:
        by_sizes.setdefault(shape.sizes, shape)
    return list(by_sizes.values())
