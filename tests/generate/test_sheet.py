from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from linzoo.checkpoints.atomic import write_bytes
from linzoo.errors import CheckpointError, UsageError
from linzoo.generate.sheet import Card, Sheet

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (250, 10, 250), (10, 250, 250)]


def sheet(prompts: list[str], size: int = 64) -> Sheet:
    def tile(index: int) -> Image.Image:
        return Image.new("RGB", (size, size), COLOURS[index % len(COLOURS)])

    cards = [Card(each, f"seed {i}", (tile(2 * i), tile(2 * i + 1))) for i, each in enumerate(prompts)]
    return Sheet("a title", "A note that says what is to be seen.", ("teacher", "student"), cards)


class Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_picture_holds_every_tile_whole() -> None:
    image = sheet(["a cat", "a dog", "a very long prompt " * 20])
    pixels = np.asarray(image.to_image())
    for colour in COLOURS:
        assert (pixels == colour).all(axis=-1).sum() == 64 * 64
    assert (pixels == 255).all(axis=-1).mean() > 0.2
    dark = (pixels < 90).all(axis=-1)
    assert dark.sum() > 200  # the captions


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (16, 4)])
def test_cards_form_a_grid_that_is_about_square(count: int, columns: int) -> None:
    image = sheet(["a cat"] * count, size=128).to_image()
    assert image.width == columns * (2 * 128 + 6 + 12) + 12
    assert image.width / image.height < 2


def test_the_page_needs_no_other_file_and_escapes_what_was_asked() -> None:
    prompt = 'a "cat" <b>&</b> <script>alert(1)</script>'
    page = sheet([prompt, "a dog"]).to_html()
    parser = Images()
    parser.feed(page)
    assert [each["alt"] for each in parser.found[:2]] == [f"teacher: {prompt}", f"student: {prompt}"]
    assert prompt in parser.text
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)", page)
    assert "http" not in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    for number, each in enumerate(parser.found):
        data = base64.b64decode(str(each["src"]).split(",", 1)[1])
        assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == COLOURS[number]


def test_saves_by_suffix(tmp_path: Path) -> None:
    contact = sheet(["a cat"])
    for suffix in (".png", ".jpg", ".webp"):
        contact.save(tmp_path / "new" / f"sheet{suffix}")
        with Image.open(tmp_path / "new" / f"sheet{suffix}") as saved:
            assert saved.size == contact.to_image().size
    contact.save(tmp_path / "sheet.html")
    assert (tmp_path / "sheet.html").read_text().startswith("<!doctype html>")
    with pytest.raises(UsageError, match=r"sheet\.tiff: name a file that ends in one of \.png"):
        contact.save(tmp_path / "sheet.tiff")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sheet.png"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*sheet\.png: No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
