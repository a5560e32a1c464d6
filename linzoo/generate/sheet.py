"""A contact sheet of pictures side by side: one PNG to send around, one HTML file that opens from disk."""

from __future__ import annotations

import base64
import html
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from linzoo.checkpoints.atomic import write_bytes
from linzoo.generate.output import check_target, encode, write_image

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_GAP = 12
_LINE = 18
_FONT_SIZE = 14
_INK, _FAINT, _PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)


@dataclass(frozen=True)
class Card:
    """One caption under the pictures that belong together.

    Attributes:
        caption: the prompt.
        detail: what else to know, for example the seed.
        images: the pictures, one for each column of the sheet, all of one size.
    """

    caption: str
    detail: str
    images: tuple[Image, ...]


@dataclass(frozen=True)
class Sheet:
    """Cards under one title.

    Attributes:
        title: one line.
        note: a sentence or two on what is to be seen.
        columns: what each picture of a card is, for example teacher and student.
        cards: at least one.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    cards: Sequence[Card]

    def save(self, path: Path) -> None:
        """Write the sheet as a page (``.html``) or as a picture, by the suffix.

        Raises:
            UsageError: the suffix stands for neither.
            CheckpointError: the place cannot be written.
        """
        check_target(path, page=True)
        if path.suffix.lower() == ".html":
            write_bytes(path, self.to_html().encode())
        else:
            write_image(path, self.to_image())

    def to_image(self) -> Image:
        """The sheet as one picture, cards in a grid that is about as wide as high."""
        from PIL import Image, ImageDraw

        tile_width, tile_height = self.cards[0].images[0].size
        card_width = len(self.columns) * tile_width + (len(self.columns) - 1) * _GAP // 2
        letters = max(10, card_width // 7)
        card_height = tile_height + 4 * _LINE + 2 * _GAP
        across = _columns(len(self.cards), card_width, card_height)
        width = across * (card_width + _GAP) + _GAP
        head = [self.title, *textwrap.wrap(self.note, max(20, width // 8)), ""]
        top = _GAP + len(head) * _LINE
        down = -(-len(self.cards) // across)
        sheet = Image.new("RGB", (width, top + down * card_height + _GAP), _PAPER)
        pen = ImageDraw.Draw(sheet)
        _text(pen, (_GAP, _GAP), head)
        for index, card in enumerate(self.cards):
            x = _GAP + index % across * (card_width + _GAP)
            y = top + index // across * card_height
            for column, (name, image) in enumerate(zip(self.columns, card.images, strict=True)):
                left = x + column * (tile_width + _GAP // 2)
                _text(pen, (left, y), [name], _FAINT)
                sheet.paste(image, (left, y + _LINE))
            lines = textwrap.wrap(card.caption, letters, max_lines=2, placeholder=" …")
            _text(pen, (x, y + _LINE + tile_height + 4), lines)
            _text(pen, (x, y + _LINE * (1 + len(lines)) + tile_height + 4), [card.detail], _FAINT)
        return sheet

    def to_html(self) -> str:
        """The sheet as one HTML page that needs no other file; follows the reader's light or dark setting."""
        cards = "\n".join(self._card_html(card) for card in self.cards)
        title, note = html.escape(self.title), html.escape(self.note)
        return _PAGE.format(style=_STYLE, title=title, note=note, cards=cards)

    def _card_html(self, card: Card) -> str:
        pictures = "".join(
            f'<div><img src="data:image/png;base64,{base64.b64encode(encode(image)).decode()}" '
            f'alt="{html.escape(f"{name}: {card.caption}")}"><span>{html.escape(name)}</span></div>'
            for name, image in zip(self.columns, card.images, strict=True)
        )
        caption = f"{html.escape(card.caption)} <small>{html.escape(card.detail)}</small>"
        return f'<figure><div class="row">{pictures}</div><figcaption>{caption}</figcaption></figure>'


_STYLE = """
:root { color-scheme: light dark; --ink: #18181b; --faint: #71717a; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #f4f4f5; --faint: #a1a1aa; --paper: #18181b; } }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 90rem; padding: 1rem;
  background: var(--paper); color: var(--ink); }
h1 { font-size: 1.4rem; }
main { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; }
.row { display: flex; gap: .4rem; }
.row div { flex: 1; }
img { width: 100%; display: block; border-radius: .3rem; }
span, small { color: var(--faint); font-size: .8rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<h1>{title}</h1>
<p>{note}</p>
<main>
{cards}
</main>
</html>
"""


def _columns(cards: int, width: int, height: int) -> int:
    """Cards side by side so that the sheet comes out about square."""
    return min(cards, max(1, round(math.sqrt(cards * height / width))))


def _text(
    pen: ImageDraw, at: tuple[int, int], lines: Sequence[str], colour: tuple[int, int, int] = _INK
) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * _LINE), line, fill=colour, font=font)
