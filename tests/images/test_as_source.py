"""`format: source`: the source's tables, chroma and scans for a JPEG; what cannot be had again is said."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from inpaint_ops.config import format_like
from inpaint_ops.images import JpegOptions, decode_source, encode, options_like, output_conversions
from tests.support.pictures import Array, noise, smooth

JOB = JpegOptions(quality=50, chroma="420", progressive=True)


def jpeg(pixels: Array, **options: Any) -> bytes:
    sink = BytesIO()
    mode = options.pop("mode", None)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(sink, "JPEG", **options)
    return sink.getvalue()


def again(data: bytes, job: JpegOptions = JOB) -> tuple[JpegImageFile, tuple[str, ...], JpegOptions]:
    source = decode_source(data, max_pixels=10**7)
    options, notes = options_like(data, source, "jpeg", job)
    out = encode(source.pixels, format="jpeg", icc=None, jpeg=options)
    return JpegImageFile(BytesIO(out)), notes, options


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 100), st.sampled_from([0, 1, 2]), st.booleans(), st.integers(1, 60), st.integers(1, 60))
def test_a_jpeg_is_written_by_its_sources_own_tables(
    quality: int, sampling: int, progressive: bool, width: int, height: int
) -> None:
    data = jpeg(smooth(width, height), quality=quality, subsampling=sampling, progressive=progressive)
    found, notes, options = again(data)
    was = JpegImageFile(BytesIO(data))
    assert notes == () and found.quantization == was.quantization and get_sampling(found) == sampling
    assert bool(found.info.get("progressive")) == progressive
    assert "the source's quantization tables" in options.text and "quality" not in options.text


def test_tables_of_the_sources_own_making_are_kept() -> None:
    tables = [list(range(1, 65)), [200 - at for at in range(64)]]
    found, notes, _ = again(jpeg(smooth(64, 48), qtables=tables, subsampling=1))
    assert notes == () and [list(found.quantization[at]) for at in (0, 1)] == tables


def test_most_pixels_come_back_as_they_were_and_more_than_by_a_quality() -> None:
    data = jpeg(smooth(256, 192), quality=80, subsampling=2)
    source = decode_source(data, max_pixels=10**7)
    options, _ = options_like(data, source, "jpeg", JOB)
    kept = decode_source(encode(source.pixels, format="jpeg", icc=None, jpeg=options), max_pixels=10**7).pixels
    other = decode_source(encode(source.pixels, format="jpeg", icc=None, jpeg=JOB), max_pixels=10**7).pixels
    assert (kept == source.pixels).mean() > (other == source.pixels).mean()
    assert any("the source's quantization tables" in one for one in output_conversions(source, "jpeg", options))


def test_gray_is_written_as_gray() -> None:
    data = jpeg(smooth(40, 30)[..., 0], quality=33)
    found, notes, _ = again(data)
    assert notes == () and found.mode == "L" and found.quantization == JpegImageFile(BytesIO(data)).quantization


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_tables_turn_with_the_picture(orientation: int, sampling: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    tables = [list(range(1, 65)), list(range(64, 128))]
    data = jpeg(smooth(32, 64), qtables=tables, subsampling=sampling, exif=exif.tobytes())
    found, notes, _ = again(data)
    turned = orientation >= 5
    assert found.size == ((32, 64) if turned else (64, 32))
    for at, table in enumerate(tables):
        own = np.array(table).reshape(8, 8)
        assert np.array_equal(np.array(found.quantization[at]).reshape(8, 8), own.T if turned else own)
    if turned and sampling == 1:
        assert get_sampling(found) == 0 and "how the source halves colour cannot be written" in notes[0]
    else:
        assert get_sampling(found) == sampling and notes == ()


def patched(data: bytes, **layers: int) -> bytes:
    """The file with other sampling factors in its frame header: its pixels are nonsense, and its header is whole."""
    at = data.index(b"\xff\xc0")
    body = bytearray(data)
    body[at + 11] = layers["luma"]
    return bytes(body)


def test_colour_kept_in_another_way_is_kept_at_full_size() -> None:
    """4:1:1 and 4:4:0, which Pillow does not write: read by the header alone, as the frame's pixels are not there."""
    data = jpeg(smooth(64, 64), quality=70, subsampling=0)
    source = decode_source(data, max_pixels=10**7)
    for luma in (0x41, 0x12):
        options, notes = options_like(patched(data, luma=luma), source, "jpeg", JOB)
        assert options.chroma == "444" and options.tables and "kept at full size" in notes[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (jpeg(smooth(32, 32), mode="CMYK"), "the source's colours are CMYK"),
        (jpeg(smooth(32, 32), keep_rgb=True), "the source's colours are RGB"),
    ],
)
def test_other_colours_are_written_as_the_job_writes_them(data: bytes, says: str) -> None:
    found, notes, options = again(data)
    assert options == JOB and says in notes[0] and found.mode == "RGB"


def test_damaged_exif_turns_nothing() -> None:
    data = jpeg(smooth(16, 32), quality=60, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    found, _, options = again(data)
    assert options.tables and found.size == (32, 16)


@pytest.mark.parametrize(
    ("kind", "format", "why"),
    [
        ("BMP", "png", "written here"), ("GIF", "png", "written here"), ("JPEG", "png", "what its name says"),
        ("PNG", "jpeg", "what its name says"), ("TIFF", "webp", "what its name says"), ("GIF", "webp", "written here"),
    ],
)  # fmt: skip
def test_where_the_name_and_the_file_differ_it_is_said(kind: str, format: Any, why: str) -> None:  # noqa: A002
    sink = BytesIO()
    Image.fromarray(noise(20, 30, 3)).save(sink, kind)
    source = decode_source(sink.getvalue(), max_pixels=10**6)
    options, notes = options_like(sink.getvalue(), source, format, JOB)
    assert options == JOB and notes == (f"format source: {kind.lower()} is not {why}, {format} was written",)


def test_an_avif_is_written_as_avif_by_the_jobs_own_quality_which_is_said() -> None:
    sink = BytesIO()
    Image.fromarray(smooth(16, 16)).save(sink, "AVIF")
    source = decode_source(sink.getvalue(), max_pixels=10**7)
    options, (note,) = options_like(sink.getvalue(), source, "avif", JOB)
    assert options == JOB and "an AVIF does not name its quality" in note


@pytest.mark.parametrize(("kind", "format"), [("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tiff")])
def test_other_formats_are_lossless_and_need_nothing(kind: str, format: Any) -> None:  # noqa: A002
    sink = BytesIO()
    Image.fromarray(noise(20, 30, 3)).save(sink, kind)
    source = decode_source(sink.getvalue(), max_pixels=10**6)
    assert options_like(sink.getvalue(), source, format, JOB) == (JOB, ())


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.png", "png"), ("a.JPG", "jpeg"), ("a.jpeg", "jpeg"), ("x/a.b.jfif", "jpeg"), ("a.webp", "webp"),
        ("a.AVIF", "avif"), ("a.avifs", "png"), ("a.jxl", "jxl"),
        ("a.TIF", "tiff"), ("a.tiff", "tiff"), ("a.heic", "png"), ("a", "png"), ("jpg", "png"), (".jpg", "png"),
        ("a.jpg/", "png"), ("", "png"),
    ],
)  # fmt: skip
def test_the_ending_of_a_name_says_the_format(name: str, format: str) -> None:  # noqa: A002
    assert format_like(name) == format
