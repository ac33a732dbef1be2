"""What a picture says of itself goes on to the result, is cleaned by the policy, or its loss is said."""
# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD

from inpaint_ops.images import Format, Source, decode_source, encode, output_conversions
from tests.support.pictures import MAX_PIXELS, chunk, file_of, icc, noise, png, stored
from tests.support.written import EACH_FORMAT, FORMATS

PIXELS = noise(24, 40)
COLOUR = {
    b"gAMA": (100_000).to_bytes(4, "big"),
    b"cHRM": b"".join(v.to_bytes(4, "big") for v in (31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
    b"sRGB": b"\1",
    b"cICP": bytes((12, 13, 0, 1)),
}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    b' xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"'
    b' xmlns:xmp="http://ns.adobe.com/xap/1.0/" aux:SerialNumber="SN12345" exif:GPSLatitude="52,31N"'
    b' photoshop:City="Berlin" dc:format="image/jpeg"><xmp:Thumbnails><rdf:Alt/></xmp:Thumbnails>'
    b"<dc:title>a lake</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def decode(data: bytes, **options: Any) -> Source:
    return decode_source(data, max_pixels=MAX_PIXELS, **options)


def again(source: Source, format: Format) -> Image.Image:
    """The source, written out and opened by Pillow."""
    data = encode(source.pixels, format=format, icc=source.icc, metadata=source.metadata)
    back = decode(data, metadata="keep")
    if format not in ("jpeg", "avif"):
        assert np.array_equal(back.rgb, source.rgb)
    image = Image.open(BytesIO(data))
    image.load()
    return image


def camera_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[271], exif[315], exif[274] = "A maker", "A photographer", orientation
    exif.get_ifd(IFD.Exif).update({0xA431: "SN12345", 0xA435: "LN999", 0x927C: b"SN12345 inside", 0x829A: 0.01})
    exif.get_ifd(IFD.Exif).update({0xA002: 1, 0xA003: 2})
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (52.0, 31.0, 0.0)})
    return exif


# ---------------------------------------------------------------------------------------- colour, resolution, texts


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", COLOUR, ids=lambda kind: kind.decode())
def test_what_a_png_says_of_its_colours_is_kept_or_its_loss_said(kind: bytes, bits: int) -> None:
    pixels = noise(24, 40, dtype=np.uint8 if bits == 8 else np.uint16)
    source = decode(png(pixels, bits=bits, extra=chunk(kind, COLOUR[kind])))
    assert source.conversions == ()
    data = encode(source.pixels, format="png", icc=None, metadata=source.metadata)
    assert data.index(chunk(kind, COLOUR[kind])) < data.index(b"IDAT")
    assert np.array_equal(decode(data).pixels, pixels) and output_conversions(source, "png") == ()
    for other in FORMATS[1:]:
        assert any(kind.decode() in sentence for sentence in output_conversions(source, other))


def test_a_profile_wins_over_an_srgb_chunk() -> None:
    source = decode(file_of(PIXELS, icc_profile=icc()))
    with_both = decode(png(PIXELS, extra=chunk(b"sRGB", b"\1")))
    data = encode(PIXELS, format="png", icc=source.icc, metadata=with_both.metadata)
    assert b"sRGB" not in data[: data.index(b"IDAT")].replace(b"sRGB built-in", b"") and decode(data).icc == source.icc


@pytest.mark.parametrize("read", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("format", EACH_FORMAT)
def test_the_resolution_is_kept_or_its_loss_said(read: str, format: Format) -> None:
    source = decode(file_of(PIXELS, read, dpi=(300, 150)))
    image = again(source, format)
    sentences = [sentence for sentence in output_conversions(source, format) if "resolution (300 dpi)" in sentence]
    assert len(sentences) == (format in ("webp", "avif", "jxl"))
    if format not in ("webp", "avif", "jxl"):
        assert tuple(round(float(value)) for value in image.info["dpi"]) == (300, 150)


def test_the_resolution_of_16_bits_is_kept() -> None:
    wide = noise(24, 40, dtype=np.uint16)
    source = decode(png(wide, bits=16, extra=chunk(b"pHYs", (11811).to_bytes(4, "big") * 2 + b"\1")))
    for lossless in ("png", "tiff"):
        assert tuple(round(float(value)) for value in again(source, lossless).info["dpi"]) == (300, 300)


def test_a_picture_on_its_side_has_its_resolution_turned() -> None:
    source = decode(file_of(stored(PIXELS, 6), "JPEG", dpi=(300, 150), exif=camera_exif(6)))
    assert source.metadata.resolution == (150, 300)


def test_no_resolution_is_made_up() -> None:
    exif = Image.Exif()
    exif[271] = "A maker"
    for data in (file_of(PIXELS), file_of(PIXELS, "JPEG"), file_of(PIXELS, "JPEG", exif=exif), file_of(PIXELS, "WEBP")):
        assert decode(data).metadata.resolution is None
    assert decode(file_of(PIXELS, "TIFF")).metadata.resolution is None


def test_texts_and_comments_are_kept_or_their_loss_said() -> None:
    text = chunk(b"tEXt", b"Author\0Somebody") + chunk(b"iTXt", "Titel\0\0\0de\0\0Ein See bei Köln".encode())
    source = decode(png(PIXELS, extra=text))
    assert (
        again(source, "png").info["Author"] == "Somebody" and again(source, "png").info["Titel"] == "Ein See bei Köln"
    )
    assert any("text chunks were dropped" in sentence for sentence in output_conversions(source, "jpeg"))
    jpeg = decode(file_of(PIXELS, "JPEG", comment="made by hand"))
    assert (
        again(jpeg, "jpeg").info["comment"] == b"made by hand" and again(jpeg, "png").info["Comment"] == "made by hand"
    )
    assert any("comment was dropped" in sentence for sentence in output_conversions(jpeg, "webp"))


# ----------------------------------------------------------------------------------------------------- EXIF and XMP


@pytest.mark.parametrize("read", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("format", EACH_FORMAT)
def test_safe_keeps_all_but_location_serial_numbers_and_thumbnails(read: str, format: Format) -> None:
    source = decode(file_of(stored(PIXELS, 6), read, exif=camera_exif(6), lossless=True))
    exif = again(source, format).getexif()
    assert (exif[271], exif[315]) == ("A maker", "A photographer") and 274 not in exif
    details = exif.get_ifd(IFD.Exif)
    assert details[0x829A] == pytest.approx(0.01) and (details[0xA002], details[0xA003]) == (40, 24)
    assert not {0xA431, 0xA435, 0x927C} & set(details) and not exif.get_ifd(IFD.GPSInfo)
    data = encode(source.pixels, format=format, icc=None, metadata=source.metadata)
    assert b"SN12345" not in data and b"LN999" not in data
    (sentence,) = [one for one in source.conversions if "metadata was removed" in one]
    assert all(word in sentence for word in ("location", "serial numbers", "INPAINT_METADATA=keep"))


@pytest.mark.parametrize("format", EACH_FORMAT)
def test_keep_keeps_all_but_the_orientation(format: Format) -> None:
    source = decode(file_of(stored(PIXELS, 6), "JPEG", exif=camera_exif(6)), metadata="keep")
    exif = again(source, format).getexif()
    assert exif[271] == "A maker" and 274 not in exif and exif.get_ifd(IFD.Exif)[0xA431] == "SN12345"
    assert exif.get_ifd(IFD.GPSInfo)[1] == "N"
    assert not any("metadata" in sentence for sentence in source.conversions)


def test_strip_keeps_nothing_but_colour_and_resolution() -> None:
    data = file_of(PIXELS, "JPEG", exif=camera_exif(), xmp=XMP, comment="made by hand", dpi=(300, 300))
    source = decode(data, metadata="strip")
    held = source.metadata
    assert held.resolution == (300, 300) and not (held.exif or held.xmp or held.comment or held.texts)
    assert any("INPAINT_METADATA=strip" in sentence for sentence in source.conversions)


@pytest.mark.parametrize("read", ["JPEG", "WEBP"])
@pytest.mark.parametrize("format", EACH_FORMAT)
def test_safe_cleans_xmp_and_keeps_the_rest(read: str, format: Format) -> None:
    source = decode(file_of(PIXELS, read, xmp=XMP))
    data = encode(source.pixels, format=format, icc=None, metadata=source.metadata)
    for private in (b"SN12345", b"52,31N", b"Berlin", b"Thumbnails"):
        assert private not in data
    assert b"a lake" in data and b'dc:format="image/jpeg"' in data
    assert any("XMP properties" in sentence for sentence in source.conversions)
    kept = decode(file_of(PIXELS, read, xmp=XMP), metadata="keep")
    assert XMP in encode(kept.pixels, format=format, icc=None, metadata=kept.metadata)


def test_xmp_of_16_bits_is_kept_in_tiff() -> None:
    source = decode(
        png(noise(24, 40, dtype=np.uint16), bits=16, extra=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP))
    )
    assert b"a lake" in encode(source.pixels, format="tiff", icc=None, metadata=source.metadata)


@pytest.mark.parametrize(
    "xmp",
    [
        b"<x><not closed",
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>',
        b"<x>" * 5000 + b"GPS" + b"</x>" * 5000,
        b"\xff\xfe\x00",
    ],
)
def test_hostile_xmp_is_dropped_and_said(xmp: bytes) -> None:
    source = decode(file_of(PIXELS, "WEBP", xmp=xmp))
    if source.metadata.xmp is not None:  # deep, but there is nothing in it to remove
        assert source.metadata.xmp == xmp
        return
    assert any("XMP" in sentence for sentence in source.conversions)


def test_the_thumbnail_is_never_kept_for_it_shows_the_source() -> None:
    exif = camera_exif()
    thumbnail = file_of(PIXELS, "JPEG")
    block = exif.tobytes()
    # A second directory behind the first, as cameras write it, made by Pillow from the merged block.
    second = Image.Exif()
    second.load(block)
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    head = second._get_head()
    directory = ImageFileDirectory_v2(ifh=head)
    for tag in second:
        directory[tag] = second[tag] if tag not in (IFD.Exif, IFD.GPSInfo) else second.get_ifd(tag)
    body = bytearray(directory.tobytes(8))
    entries = int.from_bytes(body[:2], "little" if head[:2] == b"II" else "big")
    order = "little" if head[:2] == b"II" else "big"
    at = 8 + len(body)
    body[2 + entries * 12 : 6 + entries * 12] = at.to_bytes(4, order)
    entry = b"".join(
        tag.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order) + value.to_bytes(4, order)
        for tag, value in ((0x201, at + 30), (0x202, len(thumbnail)))
    )
    body += (2).to_bytes(2, order) + entry + bytes(4) + thumbnail
    data = file_of(PIXELS, "JPEG", exif=b"Exif\0\0" + head + bytes(body))
    assert thumbnail in data
    for policy in ("safe", "keep"):
        source = decode(data, metadata=policy)
        assert any("thumbnail" in sentence for sentence in source.conversions)
        assert source.metadata.exif is not None and thumbnail not in source.metadata.exif


def test_exif_of_16_bits_is_kept_in_tiff() -> None:
    wide = noise(24, 40, dtype=np.uint16)
    source = decode(png(wide, bits=16, extra=chunk(b"eXIf", camera_exif().tobytes()[6:])))
    image = again(source, "tiff")
    assert image.getexif()[271] == "A maker" and image.getexif().get_ifd(IFD.Exif)[0x829A] == pytest.approx(0.01)
    back = decode(encode(wide, format="tiff", icc=icc(), metadata=source.metadata))
    assert np.array_equal(back.pixels, wide) and back.icc == icc() and back.metadata.exif is not None


def test_the_resolution_that_exif_alone_has_is_kept_in_16_bit_tiff() -> None:
    held = Image.Exif()
    held[282], held[283], held[296] = 300.0, 150.0, 2
    wide = noise(24, 40, dtype=np.uint16)
    source = decode(png(wide, bits=16, extra=chunk(b"eXIf", held.tobytes()[6:])))
    assert source.metadata.resolution is None
    tags = again(source, "tiff").tag_v2
    assert (float(tags[282]), float(tags[283]), tags[296]) == (300, 150, 2)


def test_a_16_bit_tiff_makes_no_resolution_up() -> None:
    data = encode(noise(24, 40, dtype=np.uint16), format="tiff", icc=None)
    assert decode(data).metadata.resolution is None and "dpi" not in Image.open(BytesIO(data)).info


def test_a_16_bit_tiff_is_compressed_with_differences_and_declares_its_alpha() -> None:
    for channels in (1, 3, 4):
        flat = np.repeat(np.arange(400, dtype=np.uint16)[None, :] * 150, 400, 0)
        wide = np.dstack([flat] * channels).squeeze()
        data = encode(wide, format="tiff", icc=icc(), metadata=decode(data_xmp()).metadata)
        tags = Image.open(BytesIO(data)).tag_v2  # type: ignore[attr-defined]
        assert tags[259] == 8 and tags[317] == 2 and tags.get(338) == ((2,) if channels == 4 else None)
        assert len(data) < wide.nbytes / 50 and tags[34675] == icc() and b"a lake" in tags[700]
        assert np.array_equal(decode(data).pixels, wide)


def data_xmp() -> bytes:
    extra = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    return png(noise(24, 40, dtype=np.uint16), bits=16, extra=extra)


def test_raw_profiles_in_texts_are_not_kept_by_safe() -> None:
    extra = chunk(b"tEXt", b"Raw profile type iptc\0\n0 SN12345") + chunk(b"tEXt", b"Author\0Somebody")
    safe, kept = decode(png(PIXELS, extra=extra)), decode(png(PIXELS, extra=extra), metadata="keep")
    assert [body for _, body in safe.metadata.texts] == [b"Author\0Somebody"] and len(kept.metadata.texts) == 2
    assert any("raw profiles" in sentence for sentence in safe.conversions)


def test_an_orientation_that_only_xmp_has_is_not_applied_and_said() -> None:
    xmp = b'<rdf:Description xmlns:rdf="r" xmlns:tiff="t" tiff:Orientation="6"/>'
    for read in ("JPEG", "PNG", "WEBP"):
        source = decode(
            png(PIXELS, extra=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
            if read == "PNG"
            else file_of(PIXELS, read, xmp=xmp)
        )
        assert source.size == (40, 24)
        assert any("only XMP has was not applied" in sentence for sentence in source.conversions)


def test_the_orientation_in_xmp_is_normalised_with_that_of_exif() -> None:
    xmp = b'<rdf:Description xmlns:rdf="r" xmlns:tiff="t" tiff:Orientation="6"/>'
    source = decode(file_of(stored(PIXELS, 6), "JPEG", exif=camera_exif(6), xmp=xmp))
    assert source.size == (40, 24) and b'tiff:Orientation="1"' in (source.metadata.xmp or b"")


def test_iptc_is_said_to_be_dropped() -> None:
    iptc = b"\x1c\x02\x78\x00\x04text"
    block = b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + b"\0"
    segment = b"Photoshop 3.0\0" + block
    plain = file_of(PIXELS, "JPEG")
    data = plain[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2, "big") + segment + plain[2:]
    assert "IPTC data is not kept" in decode(data).conversions


def test_damaged_exif_costs_no_row() -> None:
    source = decode(file_of(PIXELS, "WEBP", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"))
    assert source.metadata.exif is None
