"""Packages are checked before they are read, pictures drawn centred on white, each set once."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from linzoo_recipes.mini import fetch, render
from linzoo_recipes.mini.errors import MiniError
from PIL import Image

SQUARE = '<path fill="#ff0000" d="M0 0h32v32H0z"/>'


def tarball(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_tarball_in_the_cache_is_used_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    digest = tarball(tmp_path / "a-b-1.0.tgz", {"icons.json": b"{}"})
    found = fetch.fetch(fetch.Package("@a/b", "1.0", digest), tmp_path)
    assert fetch.read_member(found, "icons.json") == b"{}"


def test_a_changed_tarball_is_refused(tmp_path: Path) -> None:
    tarball(tmp_path / "a-b-1.0.tgz", {"icons.json": b"{}"})
    with pytest.raises(MiniError, match=r"has sha256 .* expected 00.*Delete the file"):
        fetch.fetch(fetch.Package("@a/b", "1.0", "00"), tmp_path)


def test_without_npm_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(MiniError, match=r"Install Node\.js"):
        fetch.fetch(fetch.NOTO, tmp_path)


def test_a_failing_npm_is_reported_and_leaves_no_tarball(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 404 not found >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MiniError, match="404 not found"):
        fetch.fetch(fetch.NOTO, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tgz"))


def test_a_missing_member_is_an_error(tmp_path: Path) -> None:
    tarball(tmp_path / "x.tgz", {})
    with pytest.raises(MiniError, match=r"holds no file icons\.json"):
        fetch.read_member(tmp_path / "x.tgz", "icons.json")


def test_an_icons_own_box_goes_before_the_sets() -> None:
    icons = {"width": 32, "height": 32, "icons": {"a": {"body": SQUARE}, "b": {"body": SQUARE, "width": 64}}}
    assert 'viewBox="0 0 32 32"' in render.svg_document(icons, "a")
    assert 'viewBox="0 0 64 32"' in render.svg_document(icons, "b")


def test_svg_is_drawn_at_128_pixels_on_white() -> None:
    pytest.importorskip("resvg_py")
    icons = {"width": 64, "height": 64, "icons": {"a": {"body": SQUARE}}}
    pixels = render.draw_svg(render.svg_document(icons, "a"))
    assert pixels.shape == (128, 128, 3)
    assert pixels.dtype == np.uint8
    assert pixels[10, 10].tolist() == [255, 0, 0]
    assert pixels[100, 100].tolist() == [255, 255, 255]


def test_a_tall_transparent_bitmap_is_fitted_and_centred() -> None:
    data = io.BytesIO()
    Image.new("RGBA", (128, 256), (0, 0, 255, 255)).save(data, "PNG")
    pixels = render.draw_bitmap(data.getvalue())
    assert pixels[64, 64].tolist() == [0, 0, 255]
    assert pixels[64, 5].tolist() == pixels[64, 122].tolist() == [255, 255, 255]


@pytest.fixture
def one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one made-up Noto of two icons, which is all that `render` then knows."""
    pytest.importorskip("resvg_py")
    icons = {
        "width": 32,
        "height": 32,
        "icons": {
            "red-square": {"body": SQUARE},
            "red-square-dark-skin-tone": {"body": SQUARE},
            "old": {"body": SQUARE, "hidden": True},
        },
    }
    digest = tarball(tmp_path / "set-1.tgz", {"icons.json": json.dumps(icons).encode()})
    monkeypatch.setattr(render, "SOURCES", (render.Source(fetch.Package("set", "1", digest), "noto"),))
    return tmp_path


def test_render_packs_pictures_with_names_and_styles(one_set: Path) -> None:
    render.render(one_set, one_set / "data")
    pictures = render.load(one_set / "data")
    assert pictures.pixels.shape == (1, 128, 128, 3)
    assert (pictures.names, pictures.styles) == (["red square"], ["noto"])
    assert sorted(path.name for path in (one_set / "data").iterdir()) == ["pictures.json", "pictures.npy"]


def test_an_interrupted_render_keeps_finished_sets_and_shows_no_result(
    one_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(render, "write_json", full)
        with pytest.raises(OSError, match="No space left"):
            render.render(one_set, one_set / "data")
    with pytest.raises(MiniError, match="run the `render` step"):
        render.load(one_set / "data")
    monkeypatch.setattr(render, "draw_svg", lambda _: pytest.fail("the finished set was drawn again"))
    render.render(one_set, one_set / "data")
    assert len(render.load(one_set / "data").names) == 1
