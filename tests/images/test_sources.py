"""Image files of every kind, read: which pixels come out, and which way up."""
# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import (
    H,
    W,
    chunk,
    decode,
    exif,
    file_of,
    noise,
    palette_file,
    png,
    smooth,
    stored,
    tiff,
)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
def test_eight_bit_pixels_are_kept_as_they_are(format: str, channels: int) -> None:
    pixels = noise(H, W, channels)
    options = {"lossless": True, "exact": True} if format == "webp" else {}
    source = decode(file_of(pixels, format.upper(), **options))
    assert source.format == format
    if format == "webp" and channels <= 2:
        assert np.array_equal(source.pixels[..., 0], pixels if channels == 1 else pixels[..., 0])
        return
    assert source.pixels.dtype == np.uint8
    assert np.array_equal(source.pixels, pixels)
    assert (source.width, source.height) == source.size == (W, H)
    assert source.conversions == ()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bit_png_keeps_sixteen_bits_in_red_green_blue_order(channels: int, interlaced: bool) -> None:
    pixels = noise(H, W, channels, dtype=np.uint16)
    source = decode(png(pixels, bits=16, interlaced=interlaced))
    assert source.pixels.dtype == np.uint16
    assert np.array_equal(source.pixels, pixels)
    assert source.rgb.dtype == np.uint8 and source.rgb.shape == (H, W, 3)
    opaque = pixels[..., -1] == 65535 if channels in (2, 4) else np.ones((H, W), bool)
    colour = pixels.reshape(H, W, -1)[..., : 1 if channels <= 2 else 3]
    assert np.array_equal(source.rgb[opaque], np.broadcast_to(np.rint(colour / 257), (H, W, 3))[opaque])


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bit_tiff_keeps_sixteen_bits(channels: int, byteorder: str) -> None:
    pixels = noise(H, W, channels, dtype=np.uint16)
    source = decode(tiff(pixels, byteorder=byteorder, extra_samples=2 if channels == 4 else None))
    assert source.pixels.dtype == np.dtype(np.uint16)
    assert np.array_equal(source.pixels, pixels)
    assert source.conversions == ()


def test_a_bitmap_and_a_jpeg_are_read() -> None:
    pixels = noise(H, W)
    assert np.array_equal(decode(file_of(pixels, "BMP")).pixels, pixels)
    jpeg = decode(file_of(smooth(H, W), "JPEG", quality=95))
    assert jpeg.format == "jpeg"
    assert np.abs(jpeg.pixels.astype(int) - smooth(H, W)).max() < 12


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_becomes_colour_and_says_so(transparent: bool) -> None:
    data, meant = palette_file(transparent)
    source = decode(data)
    assert np.array_equal(source.pixels, meant)
    assert source.conversions == (f"palette colours became {'RGBA' if transparent else 'RGB'}",)


def test_one_bit_becomes_gray_and_says_so() -> None:
    bits = noise(H, W, 1) & 1
    for data in (
        file_of(Image.fromarray(bits * 255).convert("1")),
        file_of(Image.fromarray(bits * 255).convert("1"), "BMP"),
    ):
        source = decode(data)
        assert np.array_equal(source.pixels, bits * 255)
        assert source.conversions == ("1-bit pixels became 8-bit gray",)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_gray_becomes_alpha(bits: int) -> None:
    top = 2**bits - 1
    samples = noise(H, W, 1, dtype=np.uint16) & top
    key = int(samples[4, 5])
    source = decode(png(samples, bits=bits, colour_type=0, extra=chunk(b"tRNS", key.to_bytes(2, "big"))))
    scale = 1 if bits >= 8 else 255 // top
    assert np.array_equal(source.pixels[..., 0], samples * scale)
    assert np.array_equal(source.pixels[..., 1] == 0, samples == key)
    assert "the transparent colour (tRNS) became an alpha channel" in source.conversions


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_becomes_alpha(bits: int) -> None:
    pixels = noise(H, W, 3, dtype=np.uint8 if bits == 8 else np.uint16)
    key = b"".join(int(v).to_bytes(2, "big") for v in pixels[4, 5])
    source = decode(png(pixels, bits=bits, extra=chunk(b"tRNS", key)))
    assert np.array_equal(source.pixels[..., :3], pixels)
    assert source.pixels[4, 5, 3] == 0 and source.pixels[0, 0, 3] == np.iinfo(pixels.dtype).max
    assert source.conversions == ("the transparent colour (tRNS) became an alpha channel",)


def test_the_model_sees_transparent_pixels_on_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (200, 100, 0, 255)
    pixels[0, 1] = (200, 100, 0, 0)
    pixels[1, 0] = (0, 0, 0, 51)
    rgb = decode(file_of(pixels)).rgb
    assert rgb[0, 0].tolist() == [200, 100, 0]
    assert rgb[0, 1].tolist() == [255, 255, 255]
    assert rgb[1, 0].tolist() == [204, 204, 204]
    assert decode(file_of(np.dstack((pixels[..., 0], pixels[..., 3])))).rgb[0].tolist() == [[200] * 3, [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff", "png16", "tiff16"])
def test_pixels_come_out_upright(kind: str, orientation: int) -> None:
    wide = kind.endswith("16")
    upright = smooth(24, 40).astype(np.uint16) * 257 if wide else smooth(24, 40)
    held = stored(upright, orientation)
    match kind:
        case "png16":
            data = png(held, bits=16, extra=chunk(b"eXIf", exif(orientation)[6:]))
        case "tiff" | "tiff16":
            data = tiff(held, orientation=orientation)
        case _:
            data = file_of(held, kind, exif=exif(orientation), **({"lossless": True} if kind == "webp" else {}))
    source = decode(data)
    assert source.size == (40, 24)
    assert source.pixels.flags.c_contiguous
    assert np.abs(source.pixels.astype(int) - upright).max() <= (12 if kind == "jpeg" else 0)
    sentences = [line for line in source.conversions if "orientation" in line]
    assert len(sentences) == (orientation != 1) and all(
        f"orientation {orientation} was applied" in line for line in sentences
    )


def test_an_orientation_behind_the_pixels_of_a_png_is_found() -> None:
    data = file_of(stored(smooth(24, 40), 6))
    moved = data[:-12] + chunk(b"eXIf", exif(6)[6:]) + data[-12:]
    assert np.array_equal(decode(moved).pixels, smooth(24, 40))


def test_orientations_that_do_not_exist_are_ignored() -> None:
    assert np.array_equal(decode(file_of(noise(H, W), exif=exif(9))).pixels, noise(H, W))


def test_a_picture_with_others_behind_it_is_read_as_its_first() -> None:
    first, second = Image.fromarray(smooth(H, W)), Image.fromarray(noise(H, W))
    source = decode(file_of(first, "MPO", save_all=True, append_images=[second], quality=95))
    assert source.format == "jpeg"
    assert np.abs(source.pixels.astype(int) - smooth(H, W)).max() < 12
    assert any("behind the first" in line for line in source.conversions)


def test_gray_that_counts_from_white_is_turned_around() -> None:
    eight, sixteen = noise(H, W, 1), noise(H, W, 1, dtype=np.uint16)
    assert np.array_equal(decode(tiff(eight, photometric=0)).pixels, 255 - eight)
    source = decode(tiff(sixteen, photometric=0))
    assert np.array_equal(source.pixels, 65535 - sixteen)
    assert any("inverted" in line for line in source.conversions)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_channel_that_is_no_alpha_is_dropped_and_said(dtype: type) -> None:
    pixels = noise(H, W, 4, dtype=dtype)
    source = decode(tiff(pixels, extra_samples=0))
    assert np.array_equal(source.pixels, pixels[..., :3])
    assert source.conversions == ("a channel that is neither colour nor alpha was dropped",)


def test_sources_cannot_be_changed_by_accident() -> None:
    for data in (
        file_of(noise(H, W)),
        png(noise(H, W, 4, dtype=np.uint16), bits=16),
        file_of(noise(H, W), exif=exif(6)),
    ):
        source = decode(data)
        assert not source.pixels.flags.writeable and not source.rgb.flags.writeable
