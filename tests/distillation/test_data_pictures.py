"""Pictures: what is cut, what SDXL is told of it, and what the autoencoder makes of it."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from linzoo.distillation.data.encode import (
    encode_captions,
    encode_pictures,
    encode_unconditional,
    text_identity,
    weights_digest,
)
from linzoo.distillation.data.items import Item, Unusable, unusable
from linzoo.distillation.data.pictures import PictureLatents, _pixels, cut
from linzoo.distillation.errors import DataError
from linzoo.distillation.recipe import Data


@pytest.mark.parametrize(
    ("original", "size", "place", "scaled", "time_ids"),
    [
        ((1024, 1024), (1024, 1024), (0.5, 0.5), (1024, 1024), [1024, 1024, 0, 0, 1024, 1024]),
        ((2048, 1024), (1024, 1024), (0.5, 0.5), (2048, 1024), [1024, 2048, 0, 512, 1024, 1024]),
        ((2048, 1024), (1024, 1024), (0.0, 0.5), (2048, 1024), [1024, 2048, 0, 0, 1024, 1024]),
        ((1000, 3000), (512, 512), (0.5, 1.0), (512, 1536), [3000, 1000, 1024, 0, 512, 512]),
        ((300, 200), (640, 384), (0.5, 0.5), (640, 427), [200, 300, 22, 0, 384, 640]),
    ],
)
def test_what_sdxl_is_told(
    original: tuple[int, int],
    size: tuple[int, int],
    place: tuple[float, float],
    scaled: tuple[int, int],
    time_ids: list[int],
) -> None:
    how = cut(original, size, place)
    assert how.scaled == scaled
    assert how.time_ids == time_ids


sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))
places = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(sizes, sizes, places)
def test_the_crop_lies_in_the_scaled_picture(
    original: tuple[int, int], size: tuple[int, int], place: tuple[float, float]
) -> None:
    how = cut(original, size, place)
    assert 0 <= how.left <= how.scaled[0] - size[0]
    assert 0 <= how.top <= how.scaled[1] - size[1]
    assert size[0] == how.scaled[0] or size[1] == how.scaled[1]


@pytest.fixture(scope="module", name="pipe")
def _pipe() -> Any:
    return tiny.tiny_sd()


def picture(pixels: np.ndarray, **options: Any) -> Item:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return Item("a.png", "a", buffer.getvalue)


def maker(pipe: Any, *of: tuple[int, int], **options: Any) -> PictureLatents:
    return PictureLatents(pipe, of or [(16, 16)], Data(kind="folder", source="x", **options), "cpu")


def pixels(made: PictureLatents, item: Item, view: int = 0) -> np.ndarray:
    """What is encoded of an item, (height, width, 3)."""
    ready = made.ready(made.views(item)[1][view])
    return ready.details["pixels"].permute(1, 2, 0).numpy()


RAMP = np.broadcast_to(np.arange(48, dtype=np.uint8)[None, :, None] * 5, (16, 48, 3))


def test_the_middle_is_cut_out(pipe: Any) -> None:
    np.testing.assert_array_equal(pixels(maker(pipe), picture(RAMP)), RAMP[:, 16:32])


def test_a_flipped_view_is_the_mirror_image(pipe: Any) -> None:
    made = maker(pipe, flip=True)
    np.testing.assert_array_equal(pixels(made, picture(RAMP), 1), pixels(made, picture(RAMP), 0)[:, ::-1])
    keys = [view.key for view in made.views(picture(RAMP))[1]]
    assert len(set(keys)) == 2


def test_a_random_crop_is_the_same_always_and_told(pipe: Any) -> None:
    made = maker(pipe, crop="random")
    places = set()
    for shade in range(8):
        ramp = RAMP.copy()
        ramp[0, 0] = shade
        first, again = (made.views(picture(ramp))[1][0] for _ in range(2))
        assert first == again
        left = first.details["cut"].left
        np.testing.assert_array_equal(pixels(made, picture(ramp))[1:], ramp[1:, left : left + 16])
        places.add(left)
    assert len(places) > 3


def test_what_is_transparent_is_white(pipe: Any) -> None:
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[:, 8:, 3] = 255
    shown = pixels(maker(pipe), picture(rgba))
    assert (shown[:, :8] == 255).all()
    assert (shown[:, 8:] == 0).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(pipe: Any, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(kind, {})
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(RAMP)).save(buffer, kind, exif=exif, **exact)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(buffer)))
    item = Item("a", "a", buffer.getvalue)
    assert maker(pipe).views(item)[1][0].details["cut"].original == upright.shape[1::-1]
    middle = upright[:, 16:32] if orientation < 5 else upright[16:32]
    np.testing.assert_array_equal(pixels(maker(pipe), item), middle)


def test_a_photograph_that_is_turned_clockwise(pipe: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    item = picture(np.ascontiguousarray(RAMP), exif=exif)
    np.testing.assert_array_equal(pixels(maker(pipe), item), np.rot90(RAMP, -1)[16:32])


def test_grey_pictures_have_three_channels(pipe: Any) -> None:
    shown = pixels(maker(pipe), picture(np.full((16, 16), 7, np.uint8)))
    assert shown.tolist() == np.full((16, 16, 3), 7).tolist()


def test_sixteen_bits_become_eight(pipe: Any) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    shown = pixels(maker(pipe), picture(grey))
    assert shown[..., 0].tolist() == shown[..., 2].tolist() == (grey >> 8).tolist()


def test_colours_of_print_become_those_of_a_screen(pipe: Any) -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(buffer, "TIFF")
    assert pixels(maker(pipe), Item("a.tif", "a", buffer.getvalue))[0, 0].tolist() == [255, 0, 0]


def test_a_palette_with_transparency(pipe: Any) -> None:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.paste(1, (8, 0, 16, 16))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=0)
    shown = pixels(maker(pipe), Item("a.png", "a", buffer.getvalue))
    assert shown[0, [0, 15]].tolist() == [[255, 255, 255], [200, 0, 0]]


def test_float_pictures_are_unusable(pipe: Any) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.float32)).save(buffer, "TIFF")
    made = maker(pipe)
    view = made.views(Item("a.tif", "a", buffer.getvalue))[1][0]
    with pytest.raises(Unusable, match="has float values; save it with 8 or 16 bits"):
        made.ready(view)


@given(st.integers(8, 90), st.integers(8, 90), st.integers(1, 40), st.integers(1, 40), st.booleans(), places)
def test_what_is_cut_is_what_scaling_and_then_cropping_gives(
    width: int, height: int, wide: int, high: int, flip: bool, place: tuple[float, float]
) -> None:
    smooth = Image.fromarray(np.indices((height, width)).sum(0).astype(np.uint8)).convert("RGB")
    buffer = io.BytesIO()
    smooth.save(buffer, "PNG")
    how = cut((width, height), (wide, high), place)
    whole = ImageOps.mirror(smooth) if flip else smooth
    box = (how.left, how.top, how.left + wide, how.top + high)
    expected = np.asarray(whole.resize(how.scaled, Image.Resampling.LANCZOS).crop(box))
    made = _pixels(buffer.getvalue(), how, flip).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made.astype(int), expected.astype(int), atol=3)


def test_a_thin_picture_takes_no_more_memory_than_others(pipe: Any) -> None:
    shown = pixels(maker(pipe, (512, 512)), picture(np.full((60000, 1, 3), 9, np.uint8)))
    assert shown.shape == (512, 512, 3)  # scaled as a whole it would be 16 GB
    assert (shown == 9).all()


@pytest.mark.parametrize("error", [RuntimeError("a"), TypeError("b"), struct.error("c")])
def test_whatever_a_decoder_raises_makes_one_picture_unusable(
    pipe: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(Unusable, match=f"cannot be read: {error}"):
        maker(pipe).views(Item("a.png", "a", lambda: b""))


def test_a_picture_goes_to_the_bucket_of_its_shape(pipe: Any) -> None:
    made = maker(pipe, (32, 32), (16, 16), buckets={"step": 8, "max_aspect_ratio": 4})
    views = made.views(picture(RAMP))[1]
    assert [(view.base, view.size) for view in views] == [(0, (64, 16)), (1, (32, 8))]


def test_the_key_is_of_content_and_cut_alone(pipe: Any) -> None:
    item = picture(RAMP)
    other = Item("elsewhere.png", "another caption", item.read)
    assert maker(pipe).views(item)[1][0].key == maker(pipe).views(other)[1][0].key
    keys = {
        maker(pipe, size, crop=crop).views(item)[1][0].key
        for size in [(16, 16), (8, 8)]
        for crop in ("center", "random")
    }
    assert len(keys) == 4


def test_latents_are_those_of_the_autoencoder_whatever_the_batch(pipe: Any) -> None:
    made = maker(pipe)
    views = [made.ready(made.views(picture(RAMP // shade))[1][0]) for shade in (1, 2, 3)]
    records = made.make(views)
    with torch.no_grad():
        stacked = torch.stack([view.details["pixels"] for view in views]).float() / 127.5 - 1
        expected = pipe.vae.encode(stacked).latent_dist.mean * pipe.vae.config.scaling_factor
    for record, latents in zip(records, expected, strict=True):
        assert record.tensors["latents"].dtype == torch.float16
        torch.testing.assert_close(record.tensors["latents"].float(), latents, rtol=1e-3, atol=1e-4)
    assert records[0].info == {
        "size": [16, 16],
        "time_ids": [16, 48, 0, 16, 16, 16],
        "flip": False,
        "name": "a.png",
    }


def test_latents_that_are_not_finite_name_the_picture() -> None:
    broken = tiny.tiny_sd()
    broken.vae.quant_conv.bias.data.fill_(float("nan"))
    made = maker(broken)
    with pytest.raises(
        DataError,
        match=r"a\.png: the autoencoder, .* gave values that are not finite; its weights are damaged",
    ):
        made.make([made.ready(made.views(picture(RAMP))[1][0])])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_autoencoder_in_half_precision_runs_in_float32_and_stays_half(
    dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    vae, rounded = tiny.tiny_vae().to(dtype), tiny.tiny_vae().to(dtype).float()
    expected = encode_pictures(rounded, pictures, "cpu")
    caplog.clear()
    torch.testing.assert_close(encode_pictures(vae, pictures, "cpu"), expected, rtol=0, atol=0)
    assert vae.dtype == dtype
    assert caplog.messages == []


def test_mean_and_spread_of_an_autoencoder_are_taken_out() -> None:
    vae = tiny.tiny_vae()
    pictures = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    plain = encode_pictures(vae, pictures, "cpu") / vae.config.scaling_factor
    vae.register_to_config(latents_mean=[1.0, 2, 3, 4], latents_std=[2.0, 2, 4, 4], scaling_factor=0.5)
    mean, std = torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1), torch.tensor([2.0, 2, 4, 4]).view(4, 1, 1)
    torch.testing.assert_close(encode_pictures(vae, pictures, "cpu"), (plain - mean) / std * 0.5)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_pictures(pipe: Any, content: bytes) -> None:
    with pytest.raises(Unusable, match="is not a picture in a format that PIL reads"):
        maker(pipe).views(Item("a.png", "a", lambda: content))


def test_a_picture_that_is_cut_short_is_found_when_it_is_decoded(pipe: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    made = maker(pipe)
    view = made.views(Item("a.jpg", "a", lambda: buffer.getvalue()[:2000]))[1][0]
    with pytest.raises(Unusable, match="cannot be read: image file is truncated"):
        made.ready(view)


def test_an_item_that_is_unusable_says_so(pipe: Any) -> None:
    with pytest.raises(Unusable, match="has no caption"):
        maker(pipe).views(unusable("a", "has no caption"))


def test_captions_are_encoded_as_the_pipeline_does_it(pipe: Any) -> None:
    encoded = encode_captions(pipe, ["a cat", "a dog"], "cpu")
    text, empty = pipe.encode_prompt(["a cat", "a dog"], "cpu", 1, True)
    assert torch.equal(encoded.text, text)
    assert encoded.pooled is None
    torch.testing.assert_close(encode_unconditional(pipe, "cpu").text, empty[:1])


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_has_pooled_states_and_its_own_unconditional(zeros: bool) -> None:
    pipe = tiny.tiny_sdxl()
    pipe.register_to_config(force_zeros_for_empty_prompt=zeros)
    encoded, empty = encode_captions(pipe, ["a cat"], "cpu"), encode_unconditional(pipe, "cpu")
    assert encoded.text.shape == (1, 77, 64)
    assert encoded.pooled is not None
    assert empty.pooled is not None
    assert encoded.pooled.shape == (1, 32)
    assert bool((empty.text == 0).all() & (empty.pooled == 0).all()) is zeros
    if not zeros:
        torch.testing.assert_close(empty.text, encode_captions(pipe, [""], "cpu").text)


def test_identities_tell_weights_and_settings_apart() -> None:
    pipe = tiny.tiny_sdxl()
    before = text_identity(pipe)
    pipe.encode_prompt("a cat")
    assert text_identity(pipe) == before
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert text_identity(pipe) != before
    digest = weights_digest(pipe.vae)
    assert weights_digest(tiny.tiny_vae()) == digest
    assert weights_digest(tiny.tiny_vae().half()) != digest
    next(pipe.vae.parameters()).data[0, 0, 0, 0] += 1
    assert weights_digest(pipe.vae) != digest
