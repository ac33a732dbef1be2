"""What is composited and written: pixels outside the mask are the source's own, in every format."""
# ruff: noqa: A001, A002 - `format` is the manifest's own name for it

from __future__ import annotations

import importlib.util
import zlib
from functools import cache
from io import BytesIO

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from inpaint_ops.config import EXTENSIONS
from inpaint_ops.errors import ImageError
from inpaint_ops.images import (
    LOSSLESS,
    MEDIA_TYPES,
    AvifOptions,
    Format,
    JpegOptions,
    check_output_size,
    check_writable,
    composite,
    encode,
    output_conversions,
    place,
    thumbnail,
    to_working,
)
from inpaint_ops.images.header import FileHeader, read_file_header
from inpaint_ops.images.profiles import says_srgb
from tests.support.pictures import (
    H,
    W,
    chunk,
    decode,
    exif,
    file_of,
    icc,
    mask_array,
    noise,
    png,
    smooth,
    stored,
    tiff,
    weights,
)
from tests.support.written import EACH_FORMAT, FORMATS, HAS_JXL


@cache
def kinds_of_source() -> dict[str, bytes]:
    wide, tall = noise(90, 120), stored(noise(90, 120), 6)
    files = {
        f"exif{orientation}": file_of(stored(wide, orientation), exif=exif(orientation)) for orientation in range(1, 9)
    }
    return files | {
        "rgb": file_of(wide),
        "jpeg": file_of(tall, "JPEG", exif=exif(6)),
        "rgba": file_of(noise(90, 120, 4)),
        "gray": file_of(noise(90, 120, 1)),
        "la": file_of(noise(90, 120, 2)),
        "1-bit": file_of(Image.fromarray(noise(90, 120, 1)).convert("1")),
        "palette": file_of(Image.fromarray(wide).quantize(64)),
        "palette-transparent": file_of(Image.fromarray(wide).quantize(64), transparency=bytes(range(64))),
        "gray16": png(noise(90, 120, 1, dtype=np.uint16), bits=16),
        "la16": png(noise(90, 120, 2, dtype=np.uint16), bits=16),
        "rgb16": png(noise(90, 120, 3, dtype=np.uint16), bits=16),
        "rgba16": tiff(noise(90, 120, 4, dtype=np.uint16), extra_samples=2),
        "icc": file_of(wide, icc_profile=icc()),
        "icc16": png(
            noise(90, 120, 3, dtype=np.uint16),
            bits=16,
            extra=chunk(b"iCCP", b"x\0\0" + zlib.compress(icc())),
        ),
        "icc-gray": file_of(noise(90, 120, 1), icc_profile=icc("gray")),
    }


@pytest.mark.parametrize("kind", kinds_of_source())
@pytest.mark.parametrize("format", [one for one in EACH_FORMAT if one not in ("jpeg", "avif")])
def test_unmasked_pixels_are_the_sources_own(kind: str, format: Format) -> None:
    source = decode(kinds_of_source()[kind])
    if format == "jxl" and kind == "icc-gray":
        with pytest.raises(ImageError, match="colour profile is not sRGB"):
            encode(source.pixels, format=format, icc=source.icc)
        return
    drawn = mask_array(90, 120, (36, 24, 66, 60))
    mask = weights(file_of(drawn), source.size, dilate=3, blur=4)
    for crop in ("none", "auto", 8):
        placement = place(source.size, mask, native=64, crop=crop)  # type: ignore[arg-type]
        painted = noise(placement.working[1], placement.working[0], seed=9)
        pixels = composite(source, mask, placement, painted)
        assert pixels.shape == source.pixels.shape and pixels.dtype == source.pixels.dtype
        back = decode(encode(pixels, format=format, icc=source.icc))
        assert back.size == source.size
        expected = as_held_by(format, source.pixels)
        assert back.pixels.shape == expected.shape and back.pixels.dtype == expected.dtype
        assert np.array_equal(back.pixels[mask == 0], expected[mask == 0])
        assert np.array_equal(back.pixels, as_held_by(format, pixels))
        assert not np.array_equal(back.pixels, expected), "something was painted"
        gray_profile_in_colour = kind == "icc-gray" and format == "webp"
        if format == "jxl":
            assert back.icc is not None and says_srgb(back.icc), "every reader is told the same"
        else:
            assert back.icc == (None if gray_profile_in_colour else source.icc)
    same = np.array_equal(expected, source.pixels) and (
        source.icc is None if format == "jxl" else back.icc == source.icc
    )
    assert (output_conversions(source, format) == ()) == same, "what a format loses is said"


def as_held_by(format: Format, pixels: np.ndarray) -> np.ndarray:
    """What a lossless format makes of pixels that it cannot hold: its documented, only changes."""
    gray = pixels.ndim == 2 or pixels.shape[2] == 2
    if format in ("webp", "jxl") and pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    if gray and (format == "webp" or (format == "tiff" and pixels.dtype == np.uint16 and pixels.ndim == 3)):
        return np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., [0, 0, 0, 1]]
    return pixels


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "jxl"])
def test_profiles_are_kept(format: Format) -> None:
    for channels, dtype in ((1, np.uint8), (3, np.uint8), (4, np.uint8), (3, np.uint16), (4, np.uint16)):
        data = encode(noise(H, W, channels, dtype=dtype), format=format, icc=icc())
        assert decode(data).icc == icc()


def test_sixteen_bit_files_are_read_alike_by_other_readers() -> None:
    for channels, order in ((1, None), (3, [2, 1, 0]), (4, [2, 1, 0, 3])):
        pixels = noise(700, 301, channels, dtype=np.uint16)  # several strips and stripes
        for format in ("png", "tiff"):
            data = encode(pixels, format=format, icc=icc())  # type: ignore[arg-type]
            other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(other if order is None else other[..., order], pixels)
            Image.open(BytesIO(data)).load()


def test_what_jpeg_loses_is_said() -> None:
    source = decode(png(noise(H, W, 4, dtype=np.uint16), bits=16))
    sentences = " ".join(output_conversions(source, "jpeg"))
    assert "16 bits" in sentences and "transparency" in sentences and "lossy" in sentences
    back = decode(encode(source.pixels, format="jpeg", icc=None))
    assert back.format == "jpeg" and back.pixels.shape == (H, W, 3)
    assert np.abs(back.pixels.astype(int) - source.rgb).mean() < 8
    assert decode(encode(noise(H, W, 2), format="jpeg", icc=None)).pixels.ndim == 2


def test_a_picture_too_large_for_a_format_is_refused() -> None:
    with pytest.raises(ImageError, match="16383 pixels per side: choose png or tiff"):
        encode(np.zeros((1, 16_384, 3), np.uint8), format="webp", icc=None)


def test_colours_under_transparent_pixels_survive() -> None:
    pixels = noise(H, W, 4)
    pixels[..., 3] = 0
    for format in (one for one in LOSSLESS if one != "jxl" or HAS_JXL):
        assert np.array_equal(decode(encode(pixels, format=format, icc=None)).pixels, pixels)


def test_alpha_is_the_sources_own_under_the_mask_too_where_that_is_wanted() -> None:
    for data in (file_of(noise(64, 64, 4)), file_of(noise(64, 64, 2)), png(noise(64, 64, 4, dtype=np.uint16), bits=16)):
        source = decode(data)
        mask = np.full((64, 64), 255, np.uint8)
        out = composite(source, mask, place((64, 64), mask, native=64), noise(64, 64, seed=5), alpha="keep")
        assert np.array_equal(out[..., -1], source.pixels[..., -1])
        assert not np.array_equal(out[..., 0], source.pixels[..., 0])


def test_painted_colour_becomes_gray_as_pillow_makes_it() -> None:
    painted = noise(64, 64, seed=5)
    mask = np.full((64, 64), 255, np.uint8)
    luma = np.asarray(Image.fromarray(painted).convert("L"))
    placement = place((64, 64), mask, native=64)
    assert np.array_equal(composite(decode(file_of(noise(64, 64, 1))), mask, placement, painted), luma)
    wide = decode(png(noise(64, 64, 1, dtype=np.uint16), bits=16))
    assert np.array_equal(composite(wide, mask, placement, painted), luma.astype(np.uint16) * 257)


def test_weights_between_blend_and_round() -> None:
    source = decode(file_of(np.full((64, 64, 3), 10, np.uint8)))
    mask = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    out = composite(source, mask, place((64, 64), mask, native=64), np.full((64, 64, 3), 200, np.uint8))
    assert np.array_equal(out[0, :, 0], np.rint(10 + 190.0 * mask[0] / 255))


def test_an_unchanged_canvas_leaves_a_smooth_picture_as_it_was() -> None:
    source = decode(file_of(smooth(200, 300)))
    mask = mask_array(200, 300, (50, 20, 250, 180))
    for native in (64, 512):
        placement = place(source.size, mask, native=native)
        rgb, _ = to_working(source, mask, placement)
        out = composite(source, mask, placement, rgb)
        assert np.abs(out.astype(int) - source.pixels).max() <= 4, "nothing is shifted on the way there and back"


def test_thumbnails_are_small_jpegs() -> None:
    for image in (
        noise(300, 500),
        file_of(noise(300, 500, 4)),
        mask_array(300, 500),
        noise(300, 500, 2, dtype=np.uint16),
    ):
        small = decode(thumbnail(image, longest=100))
        assert small.format == "jpeg" and small.size == (100, 60)
    assert decode(thumbnail(noise(3, 5))).size == (5, 3), "never enlarged"
    assert decode(thumbnail(noise(1, 3000), longest=100)).size == (100, 1)


def test_every_format_has_an_extension_and_a_media_type() -> None:
    assert set(EXTENSIONS) == set(MEDIA_TYPES) == set(FORMATS)
    assert {"jpeg", "avif"} == set(FORMATS) - LOSSLESS


def test_jpegs_are_written_as_the_options_say() -> None:
    pixels = cv2.GaussianBlur(noise(128, 160), (0, 0), 2)
    source = decode(encode(pixels, format="png", icc=None))
    sizes = {}
    for options, sampling, progressive in (
        (JpegOptions(), (1, 1, 1, 1), False),
        (JpegOptions(quality=60, chroma="422"), (2, 1, 1, 1), False),
        (JpegOptions(quality=60, chroma="420", progressive=True), (2, 2, 1, 1), True),
    ):
        data = encode(pixels, format="jpeg", icc=None, jpeg=options)
        sizes[options] = len(data)
        with Image.open(BytesIO(data)) as image:
            assert bool(image.info.get("progressive")) == progressive
            (_, x, y, _), (_, x2, y2, _) = image.layer[:2]  # type: ignore[attr-defined]
            assert (x, y, x2, y2) == sampling
        assert any(f"jpeg is lossy ({options.text})" in line for line in output_conversions(source, "jpeg", options))
    assert len(set(sizes.values())) == 3 and max(sizes, key=lambda one: sizes[one]) == JpegOptions()
    assert encode(pixels, format="jpeg", icc=None) == encode(pixels, format="jpeg", icc=None, jpeg=JpegOptions())
    assert encode(pixels, format="png", icc=None, jpeg=JpegOptions(quality=1)) == encode(pixels, format="png", icc=None)


def test_what_avif_loses_is_said() -> None:
    source = decode(png(noise(H, W, 2, dtype=np.uint16), bits=16))
    sentences = " ".join(output_conversions(source, "avif"))
    assert "16 bits per channel became 8" in sentences and "gray with alpha became RGBA" in sentences
    assert "avif is lossy (quality 90)" in sentences
    assert output_conversions(decode(file_of(smooth(H, W))), "avif", avif=AvifOptions(7, "420")) == (
        "avif is lossy (quality 7, colour at 4:2:0): unmasked pixels are close to the source's, not equal",
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_avif_comes_back_close_by_two_readers(channels: int, dtype: type) -> None:
    pixels = np.dstack([cv2.GaussianBlur(noise(H, W, seed=channels), (0, 0), 3)] * 2)[..., :channels]
    pixels = (pixels.astype(dtype) * (257 if dtype == np.uint16 else 1))[..., 0 if channels == 1 else slice(None)]
    data = encode(np.ascontiguousarray(pixels), format="avif", icc=None)
    eight = pixels if dtype == np.uint8 else (pixels // 257).astype(np.uint8)
    expected = eight[..., [0, 0, 0, 1]] if channels == 2 else eight
    back = decode(data)
    assert (back.format, back.pixels.shape, back.pixels.dtype) == ("avif", expected.shape, np.uint8)
    assert np.abs(back.pixels.astype(int) - expected).max() <= 12
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    order = {1: ..., 2: [2, 1, 0, 3], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    assert np.abs((other if channels == 1 else other[..., order]).astype(int) - expected).max() <= 12


def test_avifs_are_written_as_the_options_say_and_alike_every_time() -> None:
    pixels = cv2.GaussianBlur(noise(128, 160), (0, 0), 2)
    sizes = []
    for options, subsampling in (
        (AvifOptions(), b"\x00"),
        (AvifOptions(quality=50, chroma="422"), b"\x08"),
        (AvifOptions(quality=50, chroma="420"), b"\x0c"),
    ):
        data = encode(pixels, format="avif", icc=None, avif=options)
        at = data.index(b"av1C") + 6  # AV1-ISOBMFF: bits 3 and 2 of this byte say how colour is kept
        assert data[at] & 0x0C == subsampling[0]
        assert encode(pixels, format="avif", icc=None, avif=options) == data
        sizes.append(len(data))
    assert sizes == sorted(sizes, reverse=True)
    gray = encode(noise(40, 40, 1), format="avif", icc=None, avif=AvifOptions(chroma="420"))
    assert decode(gray).pixels.shape == (40, 40)


def test_an_avif_depends_on_no_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = cv2.GaussianBlur(noise(700, 900), (0, 0), 2)
    first = encode(pixels, format="avif", icc=None)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    assert encode(pixels, format="avif", icc=None) == first


def test_an_avif_that_no_reader_would_take_is_refused() -> None:
    check_output_size((32_768, 10), "avif")
    with pytest.raises(ImageError, match="32769x10 and avif ends at 32768 pixels per side: choose png or tiff"):
        check_output_size((32_769, 10), "avif")
    with pytest.raises(ImageError, match="20000x20000 and avif ends at 268,435,456 pixels: choose png or tiff"):
        check_output_size((20_000, 20_000), "avif")


def test_a_pillow_without_avif_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable("avif")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError, match=r"format: avif: the Pillow .* writes no AVIF: install Pillow 11.3 or later"):
        encode(noise(8, 8), format="avif", icc=None)
    check_writable("png")


def test_the_gray_profile_of_gray_with_alpha_is_dropped_from_an_avif() -> None:
    source = decode(file_of(noise(H, W, 2), icc_profile=icc("gray")))
    assert "the gray ICC profile was dropped, since gray became RGB" in output_conversions(source, "avif")
    assert decode(encode(source.pixels, format="avif", icc=source.icc)).icc is None
    plain = decode(file_of(noise(H, W, 1), icc_profile=icc("gray")))
    assert decode(encode(plain.pixels, format="avif", icc=plain.icc)).icc == plain.icc


def test_what_colours_mean_is_kept_in_jpeg_xl_or_the_row_fails() -> None:
    """The plugin writes no profile: what is not sRGB would look otherwise."""
    pytest.importorskip("pillow_jxl")
    source = decode(file_of(noise(H, W), icc_profile=icc()))
    assert output_conversions(source, "jxl") == ("the ICC profile, which says sRGB, was left out: jxl says so itself",)
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for other in (wide, b"no profile", icc()[:200]):
        with pytest.raises(ImageError, match=r"colour profile is not sRGB.*choose png, tiff or webp, or convert"):
            encode(noise(H, W), format="jxl", icc=other)
    again = decode(encode(source.pixels, format="jxl", icc=source.icc))
    assert again.icc and np.array_equal(decode(encode(again.pixels, format="jxl", icc=again.icc)).pixels, source.pixels)
    gray = decode(encode(noise(H, W, 1, dtype=np.uint16), format="jxl", icc=None))
    assert gray.icc and says_srgb(gray.icc), "not linear light"


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_pixel_of_a_jpeg_xl_comes_back(width: int, height: int, channels: int, seed: int) -> None:
    pytest.importorskip("pillow_jxl")
    pixels = noise(height, width, channels, seed=seed)
    data = encode(pixels, format="jxl", icc=None)
    assert np.array_equal(decode(data).pixels, pixels) and encode(pixels, format="jxl", icc=None) == data
    assert read_file_header(BytesIO(data)) == FileHeader("jxl", width, height)


def test_without_the_plugin_jpeg_xl_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImageError, match=r"format: jxl: .*install pillow-jxl-plugin \(GPL-3.0-or-later\) there"):
        check_writable("jxl")
    check_writable("png")


def test_a_jpeg_of_gray_has_no_colour_to_reduce() -> None:
    data = encode(noise(40, 40, 1), format="jpeg", icc=None, jpeg=JpegOptions(chroma="420"))
    assert decode(data).pixels.shape == (40, 40)
