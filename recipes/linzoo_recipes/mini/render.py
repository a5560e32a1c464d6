"""Pictures as pixels: every emoji drawn once at 128 px on white, packed in one array with its captions."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import captions, fetch
from .errors import MiniError
from .files import replacing, write_json
from .progress import track

SIZE = 128


@dataclass(frozen=True)
class Source:
    """One emoji set: its package and the style word its captions carry."""

    package: fetch.Package
    style: str


SOURCES = (
    Source(fetch.NOTO, "noto"),
    Source(fetch.NOTO_V1, "blob"),
    Source(fetch.FLUENT_FLAT, "flat"),
    Source(fetch.FLUENT_GRADIENT, "gradient"),
    Source(fetch.FLUENT_3D, "3d"),
    Source(fetch.FXEMOJI, "firefox"),
)
STYLES = tuple(source.style for source in SOURCES)


@dataclass(frozen=True)
class Pictures:
    """The rendered data set.

    `pixels`: uint8 (N, 128, 128, 3), a read-only memory map; `names` and `styles`: N strings each.
    """

    pixels: np.ndarray
    names: list[str]
    styles: list[str]


def render(cache: Path, out: Path) -> None:
    """Draw all sets into `out`/pictures.npy and `out`/pictures.json; a finished set is not drawn again.

    Each set goes to a file of its own first, so that an interrupted run continues with the next set.
    Raises MiniError when a package cannot be had or resvg is not installed.
    """
    if (out / "pictures.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    names = _names(cache)
    shards = [_render_source(source, names[source.style], cache, out) for source in SOURCES]
    with replacing(out / "pictures.npy") as path, path.open("wb") as handle:
        np.save(handle, np.concatenate([np.load(shard) for shard in shards]))
    listed = [
        {"name": name, "style": source.style} for source in SOURCES for name in names[source.style].values()
    ]
    write_json(out / "pictures.json", listed)
    for shard in shards:
        shard.unlink()


def load(out: Path) -> Pictures:
    """Return the rendered data set of `out`. Raises MiniError when it has not been rendered."""
    if not (out / "pictures.json").exists():
        raise MiniError(f"{out} holds no rendered pictures; run the `render` step first.")
    listed = json.loads((out / "pictures.json").read_text())
    pixels = np.load(out / "pictures.npy", mmap_mode="r")
    return Pictures(pixels, [entry["name"] for entry in listed], [entry["style"] for entry in listed])


def _names(cache: Path) -> dict[str, dict[str, str]]:
    """Return {style: {key: name}}; fxemoji's run-together keys are cut by the words of the other sets."""
    names: dict[str, dict[str, str]] = {}
    for source in SOURCES:
        tarball = fetch.fetch(source.package, cache)
        if source.package is fetch.FLUENT_3D:
            emojibase = json.loads(fetch.read_member(fetch.fetch(fetch.EMOJIBASE, cache), "en/data.json"))
            keys = [key for key, _ in fetch.iter_members(tarball, ".webp")]
            names[source.style] = captions.code_point_names(keys, emojibase)
        else:
            icons = json.loads(fetch.read_member(tarball, "icons.json"))["icons"]
            keys = [key for key, icon in icons.items() if not icon.get("hidden")]
            names[source.style] = (
                captions.split_names(keys, (name for known in names.values() for name in known.values()))
                if source.package is fetch.FXEMOJI
                else captions.keyed_names(keys)
            )
    return names


def _render_source(source: Source, names: Mapping[str, str], cache: Path, out: Path) -> Path:
    shard = out / f"pictures-{source.style}.npy"
    if not shard.exists():
        drawn = _pictures_of(source, names, cache)
        pixels = np.stack(list(track(drawn, f"render {source.style}", total=len(names))))
        with replacing(shard) as path, path.open("wb") as handle:
            np.save(handle, pixels)
    return shard


def _pictures_of(source: Source, names: Mapping[str, str], cache: Path) -> Iterator[np.ndarray]:
    tarball = fetch.fetch(source.package, cache)
    if source.package is fetch.FLUENT_3D:
        files = dict(fetch.iter_members(tarball, ".webp"))
        for key in names:
            yield draw_bitmap(files[key])
    else:
        icons = json.loads(fetch.read_member(tarball, "icons.json"))
        for key in names:
            yield draw_svg(svg_document(icons, key))


def svg_document(icons: Mapping[str, object], key: str) -> str:
    """Return one icon of an Iconify set as an SVG document; an icon's own view box goes before the set's."""
    icon = {**{"left": 0, "top": 0, "width": 16, "height": 16}, **icons, **icons["icons"][key]}  # type: ignore[index]
    box = " ".join(str(icon[side]) for side in ("left", "top", "width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{icon["width"]}" height="{icon["height"]}" viewBox="{box}">{icon["body"]}</svg>'
    )


def draw_svg(document: str) -> np.ndarray:
    """Return an SVG drawn on white, uint8 (128, 128, 3). Raises MiniError without resvg-py."""
    try:
        import resvg_py
    except ImportError as error:
        raise MiniError("Drawing the emoji sets needs resvg-py: pip install 'linzoo[mini]'") from error
    return draw_bitmap(bytes(resvg_py.svg_to_bytes(svg_string=document, width=SIZE, height=SIZE)))


def draw_bitmap(data: bytes) -> np.ndarray:
    """Return an encoded picture fitted in the middle of a white square, uint8 (128, 128, 3)."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (SIZE, SIZE), "white")
    canvas.alpha_composite(picture, ((SIZE - picture.width) // 2, (SIZE - picture.height) // 2))
    return np.asarray(canvas.convert("RGB"))
