"""Images, by example: every kind of file in, every format out, and everything that is refused."""
# ruff: noqa: A001, A002 - `format` is the manifest's own name for it

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from functools import cache
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from inpaint_ops.errors import ImageError, MaskError
from inpaint_ops.images import (
    EXTENSIONS,
    LOSSLESS,
    MEDIA_TYPES,
    Format,
    Source,
    composite,
    decode_mask,
    decode_source,
    encode,
    output_conversions,
    place,
    thumbnail,
    to_working,
    working_sizes,
)
from tests.support.pictures import (
    MAX_PIXELS,
    chunk,
    exif,
    file_of,
    icc,
    mask_array,
    mask_file,
    noise,
    png,
    png_bomb,
    smooth,
    stored,
    tiff,
)

H, W = 23, 37
FORMATS: tuple[Format, ...] = ("png", "webp", "tiff", "jpeg")


def decode(data: bytes) -> Source:
    return decode_source(data, max_pixels=MAX_PIXELS)


def weights(data: bytes, size: tuple[int, int] = (W, H), **options: object) -> np.ndarray:
    return decode_mask(data, size=size, max_pixels=MAX_PIXELS, **options)  # type: ignore[arg-type]


def palette_file(transparent: bool) -> tuple[bytes, np.ndarray]:
    """A palette PNG, and the RGB or RGBA pixels that it means."""
    colours = noise(1, 16, 3, seed=3)[0]
    index = noise(H, W, 1) % 16
    image = Image.fromarray(index).convert("P")
    image.putdata(index.ravel().tolist())
    image.putpalette(colours.tobytes())
    alphas = np.full(16, 255, np.uint8)
    if not transparent:
        return file_of(image), colours[index]
    alphas[:4] = [0, 10, 128, 200]
    return file_of(image, transparency=bytes(alphas)), np.dstack((colours[index], alphas[index]))


# ---------------------------------------------------------------------------------------------------- what is read


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
    said = [line for line in source.conversions if "orientation" in line]
    assert len(said) == (orientation != 1) and all(f"orientation {orientation} was applied" in line for line in said)


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


# ------------------------------------------------------------------------------------------------- what is refused


@cache
def valid_files() -> dict[str, bytes]:
    picture = Image.fromarray(noise(90, 70))
    return {
        "png": file_of(picture),
        "png16": png(noise(90, 70, dtype=np.uint16), bits=16),
        "png-interlaced": png(noise(90, 70), interlaced=True),
        "jpeg": file_of(picture, "JPEG"),
        "jpeg-progressive": file_of(picture, "JPEG", progressive=True),
        "webp": file_of(picture, "WEBP"),
        "webp-lossless": file_of(picture, "WEBP", lossless=True),
        "tiff": file_of(picture, "TIFF"),
        "tiff-lzw": file_of(picture, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": file_of(picture, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": file_of(picture, "TIFF", compression="jpeg"),
        "tiff16": tiff(noise(90, 70, dtype=np.uint16)),
        "tiff16-ours": encode(noise(90, 70, dtype=np.uint16), format="tiff", icc=None),
        "bmp": file_of(picture, "BMP"),
    }


@pytest.mark.parametrize("kind", valid_files())
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
def test_cut_off_files_are_refused(kind: str, keep: float) -> None:
    data = valid_files()[kind]
    assert decode(data).size == (70, 90)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * keep)])
    assert_one_line_with_a_cure(caught.value)


@pytest.mark.parametrize("kind", valid_files())
def test_a_file_without_its_last_byte_is_refused_or_has_every_pixel(kind: str) -> None:
    data = valid_files()[kind]
    if kind in ("bmp", "tiff16"):  # what is missing is padding
        assert np.array_equal(decode(data[:-1]).pixels, decode(data).pixels)
    else:
        with pytest.raises(ImageError):
            decode(data[:-1])


@pytest.mark.parametrize("kind", valid_files())
def test_any_cut_and_any_damage_is_an_image_or_an_image_error(kind: str) -> None:
    data, random = valid_files()[kind], np.random.default_rng(1)
    for at in random.integers(0, len(data), 15).tolist():
        for broken in (data[:at], data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]):
            try:
                decode(broken)
            except ImageError as error:
                assert_one_line_with_a_cure(error)


def test_a_png_without_its_end_is_refused() -> None:
    with pytest.raises(ImageError, match="ends before its IEND chunk"):
        decode(file_of(noise(H, W))[:-12])


def test_a_tiff_whose_strips_reach_beyond_the_file_is_refused() -> None:
    data = file_of(noise(90, 70), "TIFF")
    with pytest.raises(ImageError, match="ends before its pixels do"):
        decode(data[: len(data) * 9 // 10])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
def test_a_png_without_all_its_rows_is_refused(bits: int, interlaced: bool, keep: float) -> None:
    pixels = noise(61, 47, 3, dtype=np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(decode(png(pixels, bits=bits, interlaced=interlaced, idats=5)).pixels, pixels)
    with pytest.raises(ImageError, match="of its pixels"):
        decode(png(pixels, bits=bits, interlaced=interlaced, keep=keep, idats=5))


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 5), (5, 2), (9, 8), (4, 3)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_small_interlaced_pngs_are_whole(size: tuple[int, int], bits: int) -> None:
    samples = noise(*size, 1) & (2**bits - 1)
    scale = 255 // (2**bits - 1)
    assert np.array_equal(decode(png(samples, bits=bits, interlaced=True)).pixels, samples * scale)


def test_a_long_run_of_one_colour_is_whole() -> None:
    flat = np.zeros((1500, 1500, 3), np.uint8)  # deflate packs it a thousandfold: output outruns input
    assert decode(file_of(flat)).size == (1500, 1500)
    with pytest.raises(ImageError, match=r"holds only 9. % of its pixels"):
        decode(png(flat, keep=0.995))


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(file_of(noise(H, W)))
    data[data.index(b"IDAT") + 40] ^= 1
    with pytest.raises(ImageError, match="damaged IDAT chunk"):
        decode(bytes(data))


@pytest.mark.parametrize("reader", ["source", "mask"])
def test_too_many_pixels_are_refused_by_the_header_alone(reader: str) -> None:
    bomb = png_bomb(50_000, 50_000)
    with pytest.raises(ImageError, match="50000x50000, more than the limit of 4000000 pixels"):
        decode(bomb) if reader == "source" else weights(bomb)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
def test_the_limit_on_pixels_is_exact(format: str) -> None:
    data = file_of(smooth(20, 30), format)
    assert decode_source(data, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match="more than the limit of 599"):
        decode_source(data, max_pixels=599)


@pytest.mark.parametrize(
    "size", [(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (1, 2**31 - 1), (0, 7), (7, 0), (2**32 - 1, 1)]
)
def test_absurd_dimensions_are_refused_by_the_header_alone(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError) as caught:
        decode(png_bomb(*size))
    assert_one_line_with_a_cure(caught.value)


def test_a_profile_that_unpacks_to_a_bomb_is_refused() -> None:
    bomb = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**27), 9))
    assert len(bomb) < 2**18
    with pytest.raises(ImageError) as caught:
        decode(png(noise(H, W), extra=bomb))
    assert_one_line_with_a_cure(caught.value)


def test_text_that_unpacks_to_a_bomb_is_refused() -> None:
    bomb = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**27), 9))
    with pytest.raises(ImageError) as caught:
        decode(png(noise(H, W), extra=bomb))
    assert_one_line_with_a_cure(caught.value)


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file_of(smooth(64, 64), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    scans = data.count(b"\xff\xda")
    most = data[:-2] + last * (100 - scans) + data[-2:]
    assert decode(most).size == (64, 64)
    monkeypatch.setattr(JpegImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match="more than 100 scans: save it again"):
        decode(most[:-2] + last + most[-2:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_that_lies_about_the_size_changes_nothing(kind: str) -> None:
    lie = Image.Exif()
    lie[256], lie[257], lie[274] = 9999, 1, 6  # ImageWidth, ImageLength, Orientation
    lie.get_ifd(0x8769)[40962], lie.get_ifd(0x8769)[40963] = 1, 9999  # PixelXDimension, PixelYDimension
    if kind == "TIFF":  # whose own size is what these tags say: Pillow writes the real one
        del lie[256], lie[257]
    upright = smooth(20, 30)
    source = decode(
        file_of(stored(upright, 6), kind, exif=lie.tobytes(), **({"lossless": True} if kind == "WEBP" else {}))
    )
    assert source.size == (30, 20)
    if kind != "JPEG":
        assert np.array_equal(source.pixels, upright)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(value: int) -> None:
    pixels = noise(H, W)
    source = decode(file_of(pixels, exif=exif(value)))
    assert np.array_equal(source.pixels, pixels)


def test_huge_and_overlapping_exif_is_read_in_bounded_memory() -> None:
    region, count = 2**17, 5000
    tags = struct.pack("<HHII", 274, 3, 1, 1) + b"".join(
        struct.pack("<HHII", 40_000 + at, 7, region, 8) for at in range(count)
    )
    body = b"II" + struct.pack("<HI", 42, 8 + region) + bytes(region)
    data = png(noise(H, W), extra=chunk(b"eXIf", body + struct.pack("<H", count + 1) + tags + bytes(4)))
    tracemalloc.start()
    with warnings.catch_warnings(action="ignore"):
        assert decode(data).size == (W, H)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25, "5000 tags that share 128 kB are not 640 MB"


def test_a_tiff_whose_pages_run_in_a_circle_is_read_once() -> None:
    data = bytearray(tiff(noise(H, W)))
    data[-4:] = data[4:8]
    assert decode(bytes(data)).size == (W, H)


def test_several_frames_or_pages_are_refused() -> None:
    frames = [Image.fromarray(noise(H, W, seed=seed)) for seed in range(3)]
    for format in ("PNG", "WEBP", "TIFF", "GIF", "AVIF"):
        with pytest.raises(ImageError, match="several frames or pages: export"):
            decode(file_of(frames[0], format, save_all=True, append_images=frames[1:]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(file_of(Image.new("F", (W, H)), "TIFF"), id="float"),
        pytest.param(file_of(Image.new("I", (W, H)), "TIFF"), id="32-bit"),
        pytest.param(file_of(Image.new("LAB", (W, H)), "TIFF"), id="lab"),
        pytest.param(tiff(noise(H, W, 3, dtype=np.uint16), planar=2), id="16-bit planes"),
        pytest.param(tiff(noise(H, W, 4, dtype=np.uint16), extra_samples=1), id="16-bit premultiplied"),
        pytest.param(tiff(noise(H, W, 2, dtype=np.uint16), extra_samples=2), id="16-bit gray with alpha in a tiff"),
        pytest.param(tiff(noise(H, W, 4, dtype=np.uint16), photometric=5), id="16-bit cmyk"),
        pytest.param(b"", id="empty"),
        pytest.param(b"just some text, no image at all\n" * 9, id="text"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="signature alone"),
        pytest.param(b"\xff\xd8\xff\xd9", id="jpeg without a picture"),
        pytest.param(file_of(Image.new("RGB", (W, H)), "PPM"), id="another format"),
    ],
)
def test_kinds_that_cannot_be_kept_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert_one_line_with_a_cure(caught.value)
    with pytest.raises(ImageError, match=r"^the mask"):
        weights(data)


def assert_one_line_with_a_cure(error: ImageError) -> None:
    message = str(error)
    assert "\n" not in message and ": " in message and len(message) < 400
    assert message.startswith(("the image ", "the mask "))
    assert " 0x" not in message


# ------------------------------------------------------------------------------------------------------------ masks


def test_masks_of_every_kind_mean_the_same() -> None:
    gray = mask_array(H, W, (5, 6, 20, 15))
    rgb = np.dstack([gray] * 3)
    strokes = np.dstack((np.full_like(rgb, 255), gray))  # white everywhere, seen only where it was drawn
    kinds = [
        file_of(gray),
        file_of(rgb),
        file_of(strokes),
        file_of(np.dstack((np.full_like(gray, 255), gray))),
        file_of(Image.fromarray(gray).convert("1")),
        file_of(Image.fromarray(rgb).convert("P")),
        png(gray.astype(np.uint16) * 257, bits=16),
        png(rgb.astype(np.uint16) * 257, bits=16),
        file_of(gray, "BMP"),
        file_of(gray, "TIFF"),
        file_of(rgb, "WEBP", lossless=True),
    ]
    for data in kinds:
        assert np.array_equal(weights(data), gray)


def test_gray_levels_are_weights() -> None:
    levels = np.tile(np.arange(W, dtype=np.uint8) * 7, (H, 1))
    assert np.array_equal(weights(file_of(levels)), levels)
    assert np.array_equal(weights(file_of(levels), invert=True), 255 - levels)


def test_jpeg_noise_around_the_edge_of_a_mask_is_no_mask() -> None:
    drawn = mask_array(64, 64, (21, 19, 43, 40))
    data = file_of(drawn, "JPEG", quality=90)
    held, got = np.asarray(Image.open(BytesIO(data))), weights(data, (64, 64))
    noisy = (held > 0) & (held <= 16)
    assert noisy.any() and (got[noisy] == 0).all() and (got[held >= 239] == 255).all()
    assert np.array_equal(got > 127, drawn > 127)
    assert (got[:8] == 0).all() and (got[24:32, 24:40] == 255).all()


def test_the_orientation_of_a_mask_is_applied() -> None:
    gray = mask_array(H, W, (5, 6, 20, 15))
    assert np.array_equal(weights(file_of(stored(gray, 6), exif=exif(6))), gray)


def test_a_mask_that_masks_nothing_is_refused() -> None:
    for data, invert in ((mask_file(H, W), False), (file_of(np.full((H, W), 255, np.uint8)), True)):
        with pytest.raises(MaskError, match="masks nothing"):
            weights(data, invert=invert, dilate=3, blur=2)
    with pytest.raises(MaskError, match="masks nothing"):
        place((W, H), mask_array(H, W), native=64)


def test_a_mask_of_another_size_is_refused_and_both_sizes_are_named() -> None:
    with pytest.raises(MaskError, match=r"the mask is 20x10 and the image is 37x23: make"):
        weights(mask_file(10, 20, (0, 0, 5, 5)))
    with pytest.raises(MaskError, match=r"the mask is 23x37 and the image is 37x23 once upright.*EXIF orientation"):
        weights(mask_file(W, H, (0, 0, 5, 5)))


def test_dilation_grows_the_mask_in_a_circle() -> None:
    got = weights(mask_file(41, 41, (20, 20, 21, 21)), (41, 41), dilate=10)
    y, x = np.mgrid[0:41, 0:41]
    assert np.array_equal(got == 255, (x - 20) ** 2 + (y - 20) ** 2 <= 100)
    assert np.array_equal(got > 0, got == 255)


def test_dilation_reaches_the_frame_and_keeps_soft_weights() -> None:
    soft = mask_array(H, W, (0, 0, 3, 3), value=90)
    got = weights(file_of(soft), dilate=2, threshold=0)
    assert got.max() == 90 and (got > 0).sum() > 9
    faint_and_full = np.maximum(mask_array(H, W, (30, 3, 35, 9), value=40), mask_array(H, W, (1, 1, 4, 4)))
    grown = weights(file_of(faint_and_full), dilate=2)
    assert (grown >= faint_and_full).all() and (grown[3:9, 30:35] == 40).all() and grown[3, 36] == 0


@pytest.mark.parametrize("sigma", [0.5, 3.0, 20.0, 50.0])
def test_feathering_stays_inside_the_mask(sigma: float) -> None:
    drawn = mask_array(400, 420, (0, 30, 330, 370))
    got = weights(file_of(drawn), (420, 400), blur=sigma)
    assert np.array_equal(got > 0, drawn > 0)
    assert got[200, 100] == 255, "full in the middle"
    assert got[200, 0] == 255, "the frame's border is no edge"
    assert got[200, 329] < (80 if sigma >= 3 else 220), "faint at the mask's edge"
    assert (np.diff(got[200].astype(int)) <= 0).all(), "falls towards the edge, without waves"


@pytest.mark.parametrize(
    "options", [{"dilate": -1}, {"dilate": 513}, {"blur": -0.1}, {"blur": 257.0}, {"blur": float("nan")}]
)
def test_impossible_growth_and_feathers_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(MaskError, match="give mask_"):
        weights(mask_file(H, W, (1, 1, 5, 5)), **options)


# ---------------------------------------------------------------------------------------------------------- placing


def test_the_canvas_sizes_of_sdxl_are_its_training_buckets() -> None:
    sizes = working_sizes(1024)
    assert len(sizes) == 40 and sizes[0] == (512, 2048) and sizes[-1] == (2048, 512)
    assert {(1024, 1024), (832, 1216), (1344, 768), (704, 1344)} <= set(sizes)
    assert all(
        width % 64 == 0 and height % 64 == 0 and abs(width * height / 2**20 - 1) < 0.1 for width, height in sizes
    )


@pytest.mark.parametrize("native", [32, 64, 128, 512, 768])
def test_the_canvas_sizes_of_other_models_are_scaled(native: int) -> None:
    sizes = working_sizes(native)
    assert (native, native) in sizes and len(set(sizes)) == len(sizes) <= 40
    assert all(width % 8 == 0 and height % 8 == 0 and 0.25 <= width / height <= 4 for width, height in sizes)


@pytest.mark.parametrize(("native", "multiple"), [(24, 8), (1024, 12), (1024, 0)])
def test_impossible_canvas_sizes_are_refused(native: int, multiple: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        working_sizes(native, multiple)


@pytest.mark.parametrize(
    ("size", "working"),
    [
        ((1024, 1024), (1024, 1024)),
        ((3000, 2000), (1216, 832)),
        ((1080, 1920), (768, 1344)),
        ((9000, 900), (2048, 512)),
    ],
)
def test_the_canvas_is_the_bucket_of_the_nearest_aspect(size: tuple[int, int], working: tuple[int, int]) -> None:
    placement = place(size, mask_array(size[1], size[0], (0, 0, 9, 9)), native=1024)
    assert placement.working == working and placement.box == (0, 0, *size)


def test_a_picture_of_the_canvas_size_is_neither_resized_nor_padded() -> None:
    source = decode(file_of(noise(64, 64)))
    mask = mask_array(64, 64, (8, 8, 16, 24))
    placement = place((64, 64), mask, native=64)
    assert placement.inner == (0, 0, 64, 64)
    rgb, working_mask = to_working(source, mask, placement)
    assert np.array_equal(rgb, source.rgb) and np.array_equal(working_mask, mask)


def test_a_line_of_one_pixel_survives_on_the_latent_grid() -> None:
    source = decode(file_of(smooth(1000, 1500)))
    mask = mask_array(1000, 1500, (701, 0, 702, 1000))
    _, working_mask = to_working(source, mask, place((1500, 1000), mask, native=64))
    assert working_mask[::8, ::8].max(axis=1).min() == 255


def test_padding_is_not_masked_and_repeats_the_edge() -> None:
    source = decode(file_of(smooth(40, 400)))
    mask = np.full((40, 400), 255, np.uint8)
    placement = place((400, 40), mask, native=256)
    rgb, working_mask = to_working(source, mask, placement)
    left, top, right, bottom = placement.inner
    assert top >= 8 and placement.working[1] - bottom >= 8 and (left, right) == (0, placement.working[0])
    assert (working_mask[:top] == 0).all() and (working_mask[-(-bottom // 8) * 8 :] == 0).all()
    assert (working_mask[top:bottom] == 255).all()
    assert np.array_equal(rgb[0], rgb[top]) and np.array_equal(rgb[-1], rgb[bottom - 1])


def test_faint_masks_count_where_nothing_reaches_half() -> None:
    source = decode(file_of(smooth(64, 64)))
    faint = mask_array(64, 64, (0, 0, 8, 8), value=30)
    both = np.maximum(faint, mask_array(64, 64, (32, 32, 40, 40), value=128))
    placement = place((64, 64), faint, native=64)
    assert np.array_equal(to_working(source, faint, placement)[1], mask_array(64, 64, (0, 0, 8, 8)))
    assert np.array_equal(to_working(source, both, placement)[1], mask_array(64, 64, (32, 32, 40, 40)))


def test_auto_crops_a_small_mask_in_a_large_picture_only() -> None:
    def box(size: tuple[int, int], hole: tuple[int, int, int, int]) -> tuple[int, ...]:
        return place(size, mask_array(size[1], size[0], hole), native=1024, crop="auto").box

    assert box((1500, 600), (10, 10, 40, 40)) == (0, 0, 1500, 600), "the picture is smaller than the canvas"
    assert box((3000, 2000), (100, 100, 2000, 1900)) == (0, 0, 3000, 2000), "the mask covers more than a quarter"
    assert box((3000, 2000), (100, 100, 1600, 1300)) == (0, 0, 3000, 2000), "a little more than a quarter"
    assert box((3000, 2000), (100, 100, 1500, 1100)) != (0, 0, 3000, 2000), "a little less than a quarter"
    x0, y0, x1, y1 = box((3000, 2000), (1500, 1000, 1600, 1100))
    assert (x1 - x0, y1 - y0) == (1024, 1024)
    assert x0 <= 1500 - 128 and x1 >= 1600 + 128


@pytest.mark.parametrize("crop", [0, 32, 5000])
def test_a_crop_is_never_enlarged_where_the_source_has_the_pixels(crop: int) -> None:
    mask = mask_array(2500, 2500, (2400, 30, 2410, 90))
    placement = place((2500, 2500), mask, native=1024, crop=crop)
    assert placement.box_size[0] >= placement.inner_size[0] and placement.box_size[1] >= placement.inner_size[1]
    assert placement.box[2] <= 2500 and placement.box[1] == 0
    assert (placement.box == (0, 0, 2500, 2500)) == (crop == 5000)


def test_a_crop_of_a_flat_picture_widens_instead_of_being_enlarged() -> None:
    placement = place((5000, 300), mask_array(300, 5000, (2000, 100, 2010, 110)), native=1024, crop=0)
    assert placement.box_size[0] > 1800 and placement.box_size[1] == 300
    assert placement.inner_size[0] < 1.15 * placement.box_size[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (70_000, 1), (9, 2), (40_000, 3)])
@pytest.mark.parametrize("crop", ["none", "auto", 4])
def test_the_smallest_and_the_longest_pictures_are_painted(size: tuple[int, int], crop: int) -> None:
    width, height = size
    source = decode(file_of(noise(height, width)))
    mask = mask_array(height, width, (width // 2, height // 2, width, height))
    placement = place(size, mask, native=64, crop=crop)
    rgb, working_mask = to_working(source, mask, placement)
    assert rgb.shape[:2] == working_mask.shape == placement.working[::-1] and working_mask.any()
    out = composite(source, mask, placement, np.full_like(rgb, 77))
    assert (out[mask == 255] == 77).all() and np.array_equal(out[mask == 0], source.pixels[mask == 0])


def test_shapes_that_do_not_belong_together_are_a_mistake_of_the_caller() -> None:
    source = decode(file_of(noise(64, 64)))
    mask = mask_array(64, 64, (8, 8, 16, 16))
    placement = place((64, 64), mask, native=64)
    with pytest.raises(ValueError, match="painted must be"):
        composite(source, mask, placement, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="another size"):
        composite(source, mask[:-1], placement, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="another size"):
        to_working(source, mask[:-1], placement)
    with pytest.raises(ValueError, match="the mask is 64x63"):
        place((64, 64), mask[:-1], native=64)
    with pytest.raises(ValueError, match="crop must be"):
        place((64, 64), mask, native=64, crop=-1)
    large = decode(file_of(noise(400, 400)))
    near = mask_array(400, 400, (8, 8, 16, 16))
    with pytest.raises(ValueError, match="beyond the placement"):
        composite(large, np.full_like(near, 255), place((400, 400), near, native=64, crop=0), noise(64, 64))


# ------------------------------------------------------------------------------------------- compositing, encoding


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
@pytest.mark.parametrize("format", sorted(LOSSLESS))
def test_unmasked_pixels_are_the_sources_own(kind: str, format: Format) -> None:
    source = decode(kinds_of_source()[kind])
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
        assert back.icc == (None if gray_profile_in_colour else source.icc)
    same = np.array_equal(expected, source.pixels) and back.icc == source.icc
    assert (output_conversions(source, format) == ()) == same, "what a format loses is said"


def as_held_by(format: Format, pixels: np.ndarray) -> np.ndarray:
    """What a lossless format makes of pixels that it cannot hold: its documented, only changes."""
    gray = pixels.ndim == 2 or pixels.shape[2] == 2
    if format == "webp" and pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    if gray and (format == "webp" or (format == "tiff" and pixels.dtype == np.uint16 and pixels.ndim == 3)):
        return np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., [0, 0, 0, 1]]
    return pixels


@pytest.mark.parametrize("format", FORMATS)
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
    said = " ".join(output_conversions(source, "jpeg"))
    assert "16 bits" in said and "transparency" in said and "lossy" in said
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
    for format in LOSSLESS:
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
