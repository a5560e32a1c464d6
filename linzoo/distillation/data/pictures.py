"""Pictures: what is cut out of them, what SDXL is told of that, and their latents."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from linzoo.distillation.data.buckets import bucket_sizes, nearest
from linzoo.distillation.data.cache import Cache, Record, halved
from linzoo.distillation.data.encode import encode_pictures, weights_digest
from linzoo.distillation.data.items import Item, Size, Source, Unusable, fingerprint
from linzoo.distillation.data.maker import View, stored_bytes
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Data

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True)
class Cut:
    """How a picture becomes one of another size: scaled until it covers that, then cropped.

    Attributes:
        original: width and height of the picture as it is.
        scaled: width and height that it is scaled to.
        left: where the crop begins in the scaled picture.
        top: as ``left``.
        size: width and height of the crop.
    """

    original: Size
    scaled: Size
    left: int
    top: int
    size: Size

    @property
    def time_ids(self) -> list[int]:
        """What SDXL is told: original height and width, top and left of the crop, height and width of the crop."""
        return [*self.original[::-1], self.top, self.left, *self.size[::-1]]


def cut(original: Size, size: Size, place: tuple[float, float] = (0.5, 0.5)) -> Cut:
    """Cut a picture to a size, with the crop at ``place`` (0 to 1, from left and from top) of its room."""
    scale = max(side / whole for side, whole in zip(size, original, strict=True))
    width, height = (max(side, round(whole * scale)) for side, whole in zip(size, original, strict=True))
    left, top = round((width - size[0]) * place[0]), round((height - size[1]) * place[1])
    return Cut(original, (width, height), left, top, size)


class PictureLatents:
    """Encodes pictures with the teacher's autoencoder.

    Args:
        pipe: the teacher's pipeline.
        sizes: every picture is cut to each of them, or to the bucket of each that its shape is nearest to.
        data: of the recipe: crop, flip and buckets.
        device: where the autoencoder runs.
    """

    def __init__(self, pipe: Any, sizes: Sequence[Size], data: Data, device: torch.device | str) -> None:
        self._pipe = pipe
        self._device = device
        self._random = data.crop == "random"
        self._flips = (False, True) if data.flip else (False,)
        self._buckets = [bucket_sizes(size, data.buckets) for size in sizes]
        self.choice = [self._buckets, data.crop, data.flip]
        self.about = {
            "made by": "the teacher's autoencoder",
            "vae": weights_digest(pipe.vae),
            "config": {name: pipe.vae.config.get(name) for name in _SCALING},
        }

    def bytes_missing(self, source: Source, cache: Cache) -> int:
        """See :class:`linzoo.distillation.data.maker.Maker`; counts what is in the cache as if it were wanted."""
        views = (source.count or 0) * len(self._buckets) * len(self._flips)
        largest = max(stored_bytes(self._pipe, size) for sizes in self._buckets for size in sizes)
        return max(0, views - len(cache)) * largest

    def views(self, item: Item) -> tuple[str, list[View]]:
        """See :class:`linzoo.distillation.data.maker.Maker`."""
        content = _content(item)
        picture = hashlib.sha256(content).hexdigest()[:32]
        with _telling_unusable():
            original = _upright_size(content)
        views = []
        for base, sizes in enumerate(self._buckets):
            size = nearest(sizes, original)
            for flip in self._flips:
                key = fingerprint(picture, size, "random" if self._random else "center", flip)
                place = _random_place(key) if self._random else (0.5, 0.5)
                details = {"content": content, "cut": cut(original, size, place), "flip": flip}
                views.append(View(key, base, size, size, item.name, details))
        return picture, views

    def ready(self, view: View) -> View:
        """Decode the picture and cut it; see :class:`linzoo.distillation.data.maker.Maker`."""
        with _telling_unusable():
            pixels = _pixels(view.details["content"], view.details["cut"], view.details["flip"])
        return replace(
            view, details={"cut": view.details["cut"], "flip": view.details["flip"], "pixels": pixels}
        )

    def make(self, views: Sequence[View]) -> list[Record]:
        """Encode; see :class:`linzoo.distillation.data.maker.Maker`.

        Raises:
            DataError: the autoencoder gave values that are not finite.
        """
        pictures = torch.stack([view.details["pixels"] for view in views])
        encoded = encode_pictures(self._pipe.vae, pictures, self._device).cpu()
        return [_record(view, latents) for view, latents in zip(views, encoded, strict=True)]


_SCALING = ("scaling_factor", "latents_mean", "latents_std")


def _content(item: Item) -> bytes:
    if item.read is None:
        raise Unusable("has no image")
    return item.read()


@contextmanager
def _telling_unusable() -> Iterator[None]:
    """What PIL raises for files that are no pictures, or damaged, or of a size that only an attack has.

    Damaged files make its decoders raise nearly anything: ``struct.error``, ``TypeError``, ``RuntimeError``, ….
    """
    try:
        yield
    except (Unusable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unusable("is not a picture in a format that PIL reads") from error
    except Exception as error:
        raise Unusable(f"cannot be read: {error}") from error


def _upright_size(content: bytes) -> Size:
    """Width and height as a viewer shows the picture, from its header."""
    with Image.open(io.BytesIO(content)) as image:
        if image.format == "TIFF":
            image.load()  # PIL turns a TIFF itself: some versions when it is opened, others when it is read
        turned = image.getexif().get(_ORIENTATION) in _TURNED
        return (image.height, image.width) if turned else (image.width, image.height)


def _pixels(content: bytes, how: Cut, flip: bool) -> Tensor:
    """The cut picture, (3, height, width) in uint8; what is transparent is white."""
    with Image.open(io.BytesIO(content)) as image:
        upright = _eight_bits(ImageOps.exif_transpose(image))
        if upright.has_transparency_data:
            above = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
        picture = upright.convert("RGB")
    if flip:
        picture = ImageOps.mirror(picture)
    # Only the crop is scaled: the whole of a thin picture can be thousands of times as large.
    (width, height), (wide, high) = how.original, how.scaled
    right, bottom = how.left + how.size[0], how.top + how.size[1]
    box = (how.left * width / wide, how.top * height / high, right * width / wide, bottom * height / high)
    picture = picture.resize(how.size, Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 bits in 8, which PIL would cut off at 255; what float values mean nobody can tell."""
    if image.mode == "F":
        raise Unusable("has float values; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _random_place(key: str) -> tuple[float, float]:
    """Two numbers in 0 to 1 that depend on the view alone."""
    return int(key[:8], 16) / 0xFFFFFFFF, int(key[8:16], 16) / 0xFFFFFFFF


def _record(view: View, latents: Tensor) -> Record:
    if not bool(torch.isfinite(latents).all()):
        raise DataError(
            f"{view.name}: the autoencoder, which runs in float32, gave values that are not finite; its weights are "
            "damaged, or not those of an autoencoder for this teacher"
        )
    how: Cut = view.details["cut"]
    info = {
        "size": list(view.size),
        "time_ids": how.time_ids,
        "flip": view.details["flip"],
        "name": view.name,
    }
    return Record(view.key, {"latents": halved(latents)}, info)
