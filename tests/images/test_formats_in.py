"""Formats that are read: what each keeps, what it says of what it cannot keep, and damage that decoders paint over."""

from __future__ import annotations

import itertools
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from inpaint_ops.cli import doctor
from inpaint_ops.errors import ImageError
from inpaint_ops.images import Source, check_output_size, decode_source, formats, jxl, read_mask
from inpaint_ops.images.preview import preview
from tests.support.pictures import MAX_PIXELS, file_of, noise, smooth

PIXELS = smooth(60, 90)


def decode(data: bytes, **options: Any) -> Source:
    return decode_source(data, max_pixels=MAX_PIXELS, **options)


def photo(height: int = 256, width: int = 256) -> Image.Image:
    return Image.fromarray((smooth(height, width) // 2 + noise(height, width) // 4).astype(np.uint8))


# ------------------------------------------------------------------------------------------------------ damaged JPEG

WHOLE = {
    "plain": file_of(photo(), "JPEG", quality=90),
    "progressive": file_of(photo(), "JPEG", quality=90, progressive=True),
    "gray": file_of(photo().convert("L"), "JPEG"),
    "gray progressive": file_of(photo().convert("L"), "JPEG", progressive=True),
    "CMYK": file_of(photo().convert("CMYK"), "JPEG"),
    "RGB inside": file_of(photo(), "JPEG", keep_rgb=True),
    "4:2:0 progressive": file_of(photo(), "JPEG", subsampling=2, progressive=True),
    "restart markers": file_of(photo(), "JPEG", restart_marker_rows=1),
    "optimized": file_of(photo(), "JPEG", optimize=True, quality=30),
    "with padding behind it": file_of(photo(), "JPEG") + bytes(100),
    "with another picture behind it": file_of(photo(), "JPEG") * 2,
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_jpeg_passes(kind: str) -> None:
    assert decode(WHOLE[kind]).size == (256, 256)


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if "behind" not in kind])
@pytest.mark.parametrize("keep", [0.4, 0.6, 0.9])
def test_a_jpeg_that_was_cut_and_closed_is_refused(kind: str, keep: float) -> None:
    data = WHOLE[kind]
    with pytest.raises(ImageError, match="damaged or cut off"):
        decode(data[: int(len(data) * keep)] + b"\xff\xd9")


@pytest.mark.parametrize("kind", ["plain", "gray", "CMYK", "4:2:0 progressive"])
def test_a_jpeg_with_a_block_of_zeros_is_refused(kind: str) -> None:
    data, middle = WHOLE[kind], len(WHOLE[kind]) // 2
    with pytest.raises(ImageError, match="damaged or cut off"):
        decode(data[:middle] + bytes(2048) + data[middle + 2048 :])


@pytest.mark.parametrize("kind", ["progressive", "gray progressive", "4:2:0 progressive"])
def test_a_jpeg_without_its_last_scans_is_refused_after_each_of_them(kind: str) -> None:
    data = WHOLE[kind]
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    tables = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xc4"]
    assert len(starts) > 3
    for before, start in itertools.pairwise(starts):
        cut = max((at for at in tables if before < at < start), default=start)
        with pytest.raises(ImageError, match="lacks its last scans"):
            decode(data[:cut] + b"\xff\xd9")


# ------------------------------------------------------------------------------------------------------------- CMYK


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_becomes_rgb_by_the_plain_formula(format_: str) -> None:
    inks = np.zeros((64, 64, 4), np.uint8)
    inks[:, :32] = (255, 0, 0, 0)  # cyan
    inks[:, 32:] = (0, 0, 0, 128)
    source = decode(file_of(Image.fromarray(inks, "CMYK"), format_))
    assert np.abs(source.pixels[10, 10].astype(int) - (0, 255, 255)).max() <= 4
    assert np.abs(source.pixels[10, 50].astype(int) - 127).max() <= 4
    assert any("without a profile, by the plain formula" in sentence for sentence in source.conversions)
    assert source.icc is not None and source.icc[16:20] == b"RGB "
    assert source.icc == decode(file_of(Image.fromarray(inks, "CMYK"), format_)).icc


def test_a_profile_that_is_not_for_cmyk_is_said_to_be_of_no_use() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = decode(file_of(photo().convert("CMYK"), "JPEG", icc_profile=profile))
    assert any("profile cannot be used" in sentence for sentence in source.conversions)
    assert source.pixels.shape == (256, 256, 3)


# ---------------------------------------------------------------------------------------------------- other formats


def test_a_gif_is_read_and_of_an_animation_the_first_frame_where_that_is_wanted() -> None:
    frames = [Image.fromarray(noise(40, 60, seed=seed)).quantize(32) for seed in range(3)]
    first = np.asarray(frames[0].convert("RGB"))
    assert np.array_equal(decode(file_of(frames[0], "GIF")).pixels, first)
    animated = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"several frames or pages.*INPAINT_FRAMES=first"):
        decode(animated)
    source = decode(animated, frames="first")
    assert np.array_equal(source.pixels, first)
    assert any("only the first of several" in sentence for sentence in source.conversions)


@pytest.mark.parametrize("format_", ["WEBP", "TIFF", "PNG", "AVIF"])
def test_the_first_frame_or_page_of_any_format_is_taken_where_that_is_wanted(format_: str) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    options = {"lossless": True} if format_ == "WEBP" else {"quality": 100} if format_ == "AVIF" else {}
    source = decode(file_of(frames[0], format_, save_all=True, append_images=frames[1:], **options), frames="first")
    assert np.abs(source.rgb.astype(int) - PIXELS).max() <= 6
    assert any("only the first of several" in sentence for sentence in source.conversions)


def test_jpeg_2000_and_avif_are_read() -> None:
    exact = decode(file_of(PIXELS, "JPEG2000", irreversible=False))
    assert exact.format == "jpeg2000" and np.array_equal(exact.pixels, PIXELS) and exact.conversions == ()
    gray = noise(30, 40, 1, dtype=np.uint16)
    wide = decode(file_of(gray, "JPEG2000", irreversible=False))
    assert np.array_equal(wide.pixels, gray) and wide.conversions == ()
    avif = decode(file_of(PIXELS, "AVIF", quality=95))
    assert avif.format == "avif" and np.abs(avif.pixels.astype(int) - PIXELS).mean() < 3


@pytest.mark.parametrize("turn", [3, 6, 8])
def test_the_orientation_of_an_avif_is_applied_once(turn: int) -> None:
    exif = Image.Exif()
    exif[274] = turn
    with Image.open(BytesIO(file_of(PIXELS, "AVIF", quality=95))) as plain:
        plain.load()
    source = decode(file_of(PIXELS, "AVIF", quality=95, exif=exif.tobytes()))
    expected = np.rot90(PIXELS, {3: 2, 6: -1, 8: 1}[turn])
    assert source.pixels.shape == expected.shape
    assert np.abs(source.pixels.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("format_", ["GIF", "JPEG2000", "AVIF"])
def test_the_limit_on_pixels_holds_for_every_format(format_: str) -> None:
    data = file_of(photo(20, 30), format_)
    assert decode_source(data, max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match="more than the limit of 599"):
        decode_source(data, max_pixels=599)


def test_heic_is_read_with_the_extra() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = BytesIO()
    heif.from_pillow(Image.fromarray(PIXELS)).save(buffer, quality=95)
    source = decode(buffer.getvalue())
    assert source.format == "heif" and np.abs(source.pixels.astype(int) - PIXELS).mean() < 4
    with pytest.raises(ImageError, match="more than the limit of 599"):
        decode_source(buffer.getvalue(), max_pixels=599)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (60, 90), (1920, 1080), (4000, 30), (9000, 3)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_a_jpeg_xls_header_has_its_size_and_bits(size: tuple[int, int], mode: str) -> None:
    data = jxl_of(Image.fromarray(np.zeros(size[::-1], np.uint16)) if mode == "I;16" else Image.new(mode, size))
    assert jxl.read_header(data) == jxl.Header(*size, bits=16 if mode == "I;16" else 8, is_animated=False)


def jxl_of(image: Image.Image, **options: Any) -> bytes:
    pytest.importorskip("pillow_jxl")
    buffer = BytesIO()
    image.save(buffer, "JXL", **{"lossless": True, **options})
    return buffer.getvalue()


def test_jpeg_xl_is_read_with_the_extra(tmp_path: Path) -> None:
    data = jxl_of(Image.fromarray(PIXELS))
    source = decode(data)
    assert source.format == "jxl" and np.array_equal(source.pixels, PIXELS) and source.conversions == ()
    deep = Image.fromarray(np.arange(60 * 90, dtype=np.uint16).reshape(60, 90) * 12)
    assert np.array_equal(decode(jxl_of(deep)).pixels, np.asarray(deep))
    (tmp_path / "a.jpg").write_bytes(file_of(photo(), "JPEG"))
    with Image.open(tmp_path / "a.jpg") as whole:
        packed = decode(jxl_of(whole, lossless_jpeg=True))
        assert np.array_equal(packed.pixels, np.asarray(whole)), "a JPEG that was packed is the JPEG again"


def test_a_jpeg_xl_is_refused_by_its_header_before_its_plugin_decodes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin decodes the whole file when it opens it."""
    data = jxl.CODESTREAM + bits_of("0", (59, 9, 0), "100", "1")  # 60 high, 1:1
    assert jxl.read_header(data) == jxl.Header(60, 60, 8, False)
    data = jxl.CODESTREAM + bits_of("0", (59, 9, 0), "000", (89, 9, 0), "1")
    monkeypatch.setattr(formats.Format, "open_with", lambda self: pytest.fail("it was opened"))
    with pytest.raises(ImageError, match="90x60, more than the limit of 5399"):
        decode_source(data, max_pixels=5399)
    animated = jxl.CODESTREAM + bits_of("0", (8, 9, 0), "000", (8, 9, 0), "0", "1", "000", "0", "0", "1")
    with pytest.raises(ImageError, match="several frames"):
        decode(animated + bytes(20))
    for length in range(2, len(data)):
        with pytest.raises(ImageError, match="cut off"):
            decode(data[:length])


def bits_of(*fields: str | tuple[int, int, int]) -> bytes:
    """Fields of a JPEG XL header: bits in the order in which they come, or (value, bits, selector of two bits)."""
    text = ""
    for field in fields:
        if isinstance(field, tuple):
            value, count, selector = field
            text += f"{selector:02b}"[::-1] + f"{value:0{count}b}"[::-1]
        else:
            text += field
    return int(text[::-1], 2).to_bytes(-(-len(text) // 8), "little")


def test_the_xmp_of_a_jpeg_xl_is_read_and_many_boxes_end_in_one_error() -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    data = jxl_of(Image.fromarray(PIXELS), xmp=packet)
    assert decode(data, metadata="keep").metadata.xmp == packet and jxl.read_xmp(data) == packet
    assert decode(data, metadata="strip").metadata.xmp is None
    assert jxl.read_xmp(jxl_of(Image.fromarray(PIXELS))) is None
    free = (8).to_bytes(4, "big") + b"free"
    for read in (jxl.read_header, lambda body: jxl.read_xmp(body) or jxl.read_header(body)):
        with pytest.raises(ImageError, match="more than 4096 boxes"):
            read(jxl.CONTAINER + free * 5000 + data[12:])


@pytest.mark.parametrize("packed", [False, True])
def test_only_a_packed_jpegs_exif_turns_a_jpeg_xl(tmp_path: Path, packed: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    if packed:
        (tmp_path / "a.jpg").write_bytes(file_of(Image.fromarray(PIXELS), "JPEG", exif=exif))
        with Image.open(tmp_path / "a.jpg") as whole:
            source = decode(jxl_of(whole, lossless_jpeg=True))
        assert source.size == (60, 90) and any("orientation 6 was applied" in text for text in source.conversions)
    else:
        source = decode(jxl_of(Image.fromarray(PIXELS), exif=exif.tobytes()))
        assert source.size == (90, 60) and any("orientation 6 was not applied" in text for text in source.conversions)
    kept = Image.Exif()
    kept.load(source.metadata.exif or b"")
    assert 0x0112 not in kept, "else a viewer would turn the result again"


def test_a_format_whose_extra_is_missing_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImageError, match=r"the image \(heif\) is of a format that is not read here.*inpaint-ops\[formats\]"
    ):
        decode(b"\0\0\0\x18ftypheic" + bytes(100))
    checks = {(check.state, check.detail) for check in doctor._formats()}
    assert any(state == "ok" and "avif" in detail and "heif" not in detail for state, detail in checks)
    assert any(state == "warning" and "heif" in detail for state, detail in checks)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"8BPS\0\x01", "Photoshop"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "camera raw"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
        (b"\x93NUMPY\x01\0v\0{'descr': '|b1'", "NumPy"),
        (b"P5 640 480 255\n", "Netpbm"),
    ],
)
def test_a_format_that_is_not_read_is_named_with_the_cure(start: bytes, name: str) -> None:
    with pytest.raises(
        ImageError, match=f"the image is of the format {name}, which is not read: convert it to PNG or TIFF"
    ):
        decode(start + bytes(100))


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "is a Git LFS pointer .*: `git lfs pull`"),
        (b"\x1f\x8b\x08\0", "is compressed by gzip: unpack it"),
        (b"PK\3\4", "is a ZIP archive: unpack it"),
    ],
)
def test_what_holds_the_picture_or_points_to_it_says_how_to_get_it(start: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=f"the image {words}"):
        decode(start + bytes(100))


def test_a_raw_files_preview_is_not_taken_for_its_picture() -> None:
    small, whole = PIXELS[::4, ::4], PIXELS

    def written(*pages: tuple[Any, dict[str, Any]]) -> bytes:
        buffer = BytesIO()
        with tifffile.TiffWriter(buffer) as file:
            for pixels, options in pages:
                file.write(pixels, photometric="rgb", **options)
        return buffer.getvalue()

    preview = (small, {"subfiletype": 1, "subifds": 1})  # as Nikon's and Sony's
    dng = (whole, {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]})
    for pages, words in (((preview, (whole, {})), "a reduced preview"), ((dng,), "a camera's raw file")):
        with pytest.raises(ImageError, match=rf"the image \(tiff\) (begins with|is) {words}.*export"):
            decode(written(*pages))
    plain = bytearray(written((whole, {})))
    at = int.from_bytes(plain[4:8], "little")
    canon = bytes(plain[:4]) + (at + 8).to_bytes(4, "little") + b"CR\2\0" + bytes(4) + bytes(plain[8:])
    with pytest.raises(ImageError, match="a camera's raw file"):
        decode(canon)
    pyramid = ((whole, {"subifds": 1}), (small, {"subfiletype": 1}))
    assert decode(written(*pyramid)).size == (whole.shape[1], whole.shape[0]), "smaller levels behind the picture"
    lone = decode(written((small, {"subfiletype": 1})))
    assert lone.size == (small.shape[1], small.shape[0]), "it is all that there is"
    with pytest.raises(ImageError, match="a reduced preview"):
        decode(written((small, {"subfiletype": 1}), (whole, {})), frames="first")


@pytest.mark.parametrize(
    "start", [b"GIF89a", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic", jxl.CODESTREAM]
)
def test_damaged_files_of_every_format_are_an_image_error(start: bytes) -> None:
    for length in (0, 30, 500):
        with pytest.raises(ImageError) as caught:
            decode(start + noise(1, length, 1).tobytes() if length else start)
        assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------------- own words


def tifffile_of(pixels: Any, **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="rgb", **options)
    return buffer.getvalue()


def tiff_of(bits: int, sample_format: int, *, big: bool = False) -> bytes:
    """The header of a TIFF of such samples, with a few bytes of pixels."""
    tags = [
        (256, 4),
        (257, 4),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 200),
        (277, 1),
        (278, 4),
        (279, 64),
        (339, sample_format),
    ]
    if big:
        return b"II+\0\x08\0\0\0" + bytes(300)
    entries = b"".join(
        tag.to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in tags
    )
    return b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + entries + bytes(300)


def plain_tiff(pixels: Any, **options: Any) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_signed_gray_is_read_where_no_sample_is_negative(kind: str) -> None:
    """numpy's own integers have a sign, and arrays are saved as they are."""
    pixels = (np.arange(32 * 48).reshape(32, 48) % 128).astype(kind) * np.asarray(1 if kind == "int8" else 257, kind)
    found = decode(plain_tiff(pixels))
    assert np.array_equal(found.pixels, pixels) and found.pixels.dtype.name == f"u{kind}"
    assert "signed samples, none of them negative, were read as unsigned ones" in found.conversions
    with Image.open(BytesIO(preview(plain_tiff(pixels), 24, max_pixels=MAX_PIXELS))) as small:
        assert small.size == (24, 16)
        assert np.asarray(small).mean() == pytest.approx(pixels.mean() / (1 if kind == "int8" else 257), abs=2)
    pixels[3, 4] = -1
    with pytest.raises(ImageError, match=r"holds negative samples.*unsigned 8 or 16 bits"):
        decode(plain_tiff(pixels))


@pytest.mark.parametrize("high", [1, 255, 32767])
def test_a_mask_of_signed_samples_is_a_mask(high: int) -> None:
    weights = np.zeros((24, 32), np.int16)
    weights[4:12, 6:20] = high
    found = read_mask(plain_tiff(weights), size=(32, 24), max_pixels=10**4)
    assert np.array_equal(found.weights == 255, weights > 0) and not found.weights[weights == 0].any()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (plain_tiff(np.zeros((8, 8), np.int16), photometric="miniswhite"), "signed samples.*with 0 as black"),
        (plain_tiff(np.zeros((8, 8, 3), np.int8), photometric="rgb"), "signed samples.*convert it to unsigned ones"),
        (plain_tiff(np.zeros((8, 8, 3), np.int16), photometric="rgb"), "signed samples.*in gray alone"),
        (tiff_of(32, 2), "has 32 bits per sample.*convert it to 8 or 16 bits"),
        (tiff_of(32, 3), "holds 32-bit float samples.*16-bit integers"),
        (tiff_of(16, 3), "holds 16-bit float samples"),
        (tiff_of(64, 3), "holds 64-bit float samples"),
        (tiff_of(32, 1), "has 32 bits per sample.*convert it to 8 or 16 bits"),
        (tiff_of(8, 1, big=True), "is a BigTIFF.*save it as a plain TIFF"),
        (tifffile_of(smooth(512, 480), bigtiff=True), "is a BigTIFF.*save it as a plain TIFF"),
        (tifffile_of(smooth(512, 480), bigtiff=True, byteorder=">"), "is a BigTIFF.*save it as a plain TIFF"),
    ],
)
def test_sound_files_that_are_not_read_are_not_called_damaged(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        decode(data)
    assert "damaged" not in str(caught.value)


def test_what_an_output_format_cannot_hold_is_known_before_painting() -> None:
    check_output_size((16_383, 10), "webp")
    with pytest.raises(ImageError, match="webp ends at 16383"):
        check_output_size((16_384, 10), "webp")


def test_bombs_of_other_formats_are_refused_by_their_header() -> None:
    gif = b"GIF89a" + (65_535).to_bytes(2, "little") * 2 + b"\x80\0\0" + bytes(6) + b"," + bytes(4)
    with pytest.raises(ImageError, match="65535x65535, more than the limit"):
        decode(gif + (65_535).to_bytes(2, "little") * 2 + b"\0\x02\x01\0\0;")
