"""TIFF, where Pillow is too kind or too narrow: kinds that it would misread, and 16-bit colour out.

Source: TIFF 6.0 (1992), and Adobe's TIFF technical notes for deflate.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from inpaint_ops.errors import ImageError
from inpaint_ops.images.png import AGAIN

BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, PLANAR, EXTRA_SAMPLES = 258, 262, 274, 284, 338
_SAMPLE_FORMAT, _EXIF_IFD, _GPS_IFD = 339, 34665, 34853
_BITS = {1, 2, 4, 8, 16}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SUBFILE, _SUBIFDS, _IS_REDUCED = 254, 330, 1
_DNG_VERSION, _OF_SENSOR = 50706, {32803, 34892}
"""What only a DNG has, and the photometric interpretations of a sensor's own samples (DNG 1.7)."""
_STRIP_BYTES = 1 << 20
_RESOLUTION, _UNIT = (282, 283, 296), 296
_INCH = 2
_BLOCKS = ((273, 279), (324, 325))
"""The tags that hold (offsets, byte counts) of strips and of tiles."""


def check_kind(data: bytes) -> None:
    """Raise ImageError for kinds that Pillow cannot open, or calls damaged: BigTIFF, float and 32-bit samples, and
    signed ones but for gray; and for a camera's raw file, of which it would read the small preview.
    """
    if data[2:4] in (b"+\0", b"\0+"):
        raise ImageError("is a BigTIFF, which is not supported: save it as a plain TIFF (up to 4 GB) or as PNG")
    try:
        tags = ImageFileDirectory_v2(ifh=data[:8])
        file = BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, kinds = _numbers(tags.get(BITS_PER_SAMPLE, 1)), _numbers(tags.get(_SAMPLE_FORMAT))
        is_gray = len(bits) == 1 and tags.get(PHOTOMETRIC) == _BLACK_IS_ZERO
        of_sensor = tags.get(PHOTOMETRIC) in _OF_SENSOR or _DNG_VERSION in tags or data[8:10] == b"CR"  # Canon's CR2
        has_more = bool(tags.next) or _SUBIFDS in tags
        is_preview = has_more and any(value & _IS_REDUCED for value in _numbers(tags.get(_SUBFILE)))
    except Exception:  # foreign bytes: the decoder says what is wrong
        return
    if of_sensor:
        raise ImageError("is a camera's raw file, which is not read: develop it, and export it as TIFF or PNG")
    if is_preview:
        raise ImageError(
            "begins with a reduced preview of the picture, as cameras' raw files do: export the picture itself as TIFF "
            "or PNG"
        )
    if 3 in kinds:
        raise ImageError(
            f"holds {bits[0]}-bit float samples, which are not supported: convert it to 16-bit integers "
            "(with 1.0 as 65535)"
        )
    if not set(bits) <= _BITS and all(isinstance(value, int) for value in bits):
        raise ImageError(
            f"has {'/'.join(map(str, bits[:4]))} bits per sample, which is not supported: convert it to 8 or 16 bits"
        )
    if 2 in kinds and not is_gray:
        raise ImageError(
            "holds signed samples, which are supported in gray alone, with 0 as black: convert it to unsigned ones"
        )


def check_tags(tags: Mapping[int, Any], *, file_bytes: int, max_pixels: int) -> None:
    """Raise ImageError for a TIFF that reaches beyond its file, or that Pillow or OpenCV would silently misread.

    Args:
        tags: the first directory, as Pillow reads it (`tag_v2`).
        file_bytes: the length of the whole file.
        max_pixels: the most pixels that one tile may have.
    """
    for offsets, counts in _BLOCKS:
        for offset, count in zip(_numbers(tags.get(offsets)), _numbers(tags.get(counts)), strict=False):
            if offset + count > file_bytes:
                raise ImageError(f"ends before its pixels do: {AGAIN}")
    tile = tags.get(322), tags.get(323)
    if all(isinstance(side, int) for side in tile) and tile[0] * tile[1] > max(max_pixels, 1 << 20):  # type: ignore[operator]
        raise ImageError("has tiles larger than the limit on pixels: save it without tiles")


def is_16_bit_colour(tags: Mapping[int, Any]) -> bool:
    """Whether these are 16-bit samples in more than one channel, which Pillow would cut to 8 bits.

    Raises ImageError for the layouts that OpenCV 5 misreads: separate planes, premultiplied alpha.
    """
    bits = _numbers(tags.get(BITS_PER_SAMPLE, 1))
    if len(bits) < 2 or 16 not in bits:
        return False
    if tags.get(PHOTOMETRIC) != _RGB or set(bits) != {16} or len(bits) not in (3, 4):
        raise ImageError("is a 16-bit kind that is not supported: convert it to RGB")
    if tags.get(PLANAR, 1) != 1:
        raise ImageError("keeps its 16-bit channels in separate planes, which is not supported: save it interleaved")
    if has_premultiplied_alpha(tags):
        raise ImageError("has 16-bit premultiplied alpha, which is not supported: save it with straight alpha")
    return True


def has_unnamed_channel(tags: Mapping[int, Any]) -> bool:
    """Whether a channel is declared to be neither colour nor alpha (ExtraSamples 0)."""
    return 0 in _numbers(tags.get(EXTRA_SAMPLES))


def has_premultiplied_alpha(tags: Mapping[int, Any]) -> bool:
    """Whether colour is stored multiplied by alpha (ExtraSamples 1). Pillow divides it out again, which rounds."""
    return 1 in _numbers(tags.get(EXTRA_SAMPLES))


def as_unsigned(tags: Mapping[int, Any], array: np.ndarray, conversions: list[str]) -> np.ndarray:
    """The gray array of signed samples as unsigned ones of as many bits; any other array as it is.

    Pillow gives 16 bits as int32, and 8 bits as if they had no sign. Raises ImageError where a sample is negative.
    """
    if 2 not in _numbers(tags.get(_SAMPLE_FORMAT)) or _numbers(tags.get(BITS_PER_SAMPLE)) not in ((8,), (16,)):
        return array
    if array.min() < 0 or array.max() >= (2**7 if array.dtype == np.uint8 else 2**15):
        raise ImageError("holds negative samples, which are not supported: convert it to unsigned 8 or 16 bits")
    conversions.append("signed samples, none of them negative, were read as unsigned ones")
    return array.astype(np.uint16) if array.dtype == np.int32 else array


def is_signed_gray(tags: Mapping[int, Any]) -> bool:
    """Whether these are signed 16-bit samples of one channel, for which Pillow has 32 bits."""
    return _numbers(tags.get(_SAMPLE_FORMAT)) == (2,) and _numbers(tags.get(BITS_PER_SAMPLE)) == (16,)


def is_white_zero(tags: Mapping[int, Any]) -> bool:
    """Whether small values are bright. Pillow turns such 1- to 8-bit gray around, and leaves 16-bit gray as it is."""
    return bool(tags.get(PHOTOMETRIC) == _WHITE_IS_ZERO)


def _numbers(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, tuple) else (value,)


def write_16_bit(
    pixels: np.ndarray,
    *,
    icc: bytes | None,
    resolution: tuple[float, float] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """Encode 16-bit pixels: deflate with horizontal differences, strips of about 1 MiB.

    Args:
        pixels: (H, W) or (H, W, C) uint16; C is 3 or 4 (straight alpha).
        icc: a profile to embed, or None.
        resolution: pixels per inch, (across, down), or None: then it says 1 to 1, without a unit.
        xmp: an XMP packet to embed, or None.

    Pillow writes 16-bit gray alone; OpenCV 5 writes no ICC profile and leaves the alpha channel undeclared.
    """
    import tifffile  # 50 ms that only a process that writes such a file pays

    width = pixels.shape[1]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    file = BytesIO()
    tifffile.imwrite(
        file,
        pixels,
        bigtiff=False,  # which `check_kind` refuses
        byteorder="<",  # as `with_exif` wants it
        photometric="minisblack" if channels == 1 else "rgb",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="adobe_deflate",
        predictor=True,
        rowsperstrip=max(1, _STRIP_BYTES // (width * channels * 2)),
        maxworkers=1,
        resolution=resolution,
        resolutionunit=_INCH if resolution else None,
        iccprofile=icc or None,
        extratags=[(700, 1, len(xmp), xmp, True)] if xmp else None,
        metadata=None,
        software=False,
    )
    return file.getvalue()


def with_exif(data: bytes, exif: bytes) -> bytes:
    """A little-endian TIFF of ours with an EXIF block's tags, which libtiff does not write: a new directory at its end.

    Tags that the file has stand, but for a resolution without a unit, which says nothing (tifffile writes one always).
    """
    found = Image.Exif()
    found.load(exif)
    body = bytearray(data)
    (at,) = struct.unpack("<I", body[4:8])
    entries = {entry[:2]: entry for entry in _entries(body, at)}
    if entries.get(struct.pack("<H", _UNIT), b"")[8:10] == b"\1\0":
        for tag in _RESOLUTION:
            entries.pop(struct.pack("<H", tag), None)

    def append(values: Mapping[int, Any]) -> int:
        body.extend(b"\0" * (len(body) % 2))
        directory = ImageFileDirectory_v2(ifh=bytes(body[:8]))
        for tag, value in values.items():
            directory[tag] = value
        start = len(body)
        body.extend(directory.tobytes(start))
        return start

    for tag in (_EXIF_IFD, _GPS_IFD):
        if values := dict(found.get_ifd(tag)):
            entry = struct.pack("<HHII", tag, 4, 1, append(values))
            entries.setdefault(entry[:2], entry)
    if own := {tag: found[tag] for tag in found if tag not in (_EXIF_IFD, _GPS_IFD)}:
        for entry in _entries(body, append(own)):
            entries.setdefault(entry[:2], entry)
    body.extend(b"\0" * (len(body) % 2))
    struct.pack_into("<I", body, 4, len(body))
    ordered = sorted(entries.values(), key=lambda entry: int.from_bytes(entry[:2], "little"))
    return bytes(body + struct.pack("<H", len(ordered)) + b"".join(ordered) + bytes(4))


def _entries(body: bytearray, at: int) -> list[bytes]:
    (count,) = struct.unpack_from("<H", body, at)
    return [bytes(body[at + 2 + 12 * index : at + 14 + 12 * index]) for index in range(count)]
