"""Bytes of an image file -> upright pixels, and a sentence for each thing that was converted or dropped."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from inpaint_ops.errors import ImageError
from inpaint_ops.images import cmyk, costs, jpeg, jxl, png, tiff
from inpaint_ops.images.formats import Format, format_of, what_it_is
from inpaint_ops.images.metadata import NOTHING, Metadata, Policy, exif_of, read_metadata

Frames = Literal["one", "first"]

_BEFORE_OPENING = {"png": costs.check_chunks, "jpeg": costs.check_segments, "tiff": costs.check_directory}
_MODES = {"1", "L", "LA", "RGB", "RGBA", "P", "PA", "I;16", "I;16L", "I;16B"}
_EXIF_ORIENTATION = 274
_TURNS: dict[int, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    2: ("mirrored left to right", lambda a: a[:, ::-1]),
    3: ("turned by 180 degrees", lambda a: a[::-1, ::-1]),
    4: ("mirrored top to bottom", lambda a: a[::-1]),
    5: ("mirrored along the main diagonal", lambda a: a.swapaxes(0, 1)),
    6: ("turned by 90 degrees clockwise", lambda a: np.rot90(a, -1)),
    7: ("mirrored along the other diagonal", lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
    8: ("turned by 90 degrees counterclockwise", lambda a: np.rot90(a, 1)),
}
"""What makes pixels upright, by EXIF orientation (EXIF 3.0, tag 0x0112)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """One decoded picture.

    `array` is (H, W) or (H, W, C) uint8 or uint16, upright, read-only; C is 2 (gray, alpha), 3 or 4.
    """

    array: np.ndarray
    icc: bytes | None
    format: str
    conversions: tuple[str, ...]
    metadata: Metadata = NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A source image, upright.

    The model sees the file's own code values and no colour management takes place: what it paints is in the source's
    encoding, so the source's ICC profile goes for the result too.

    Attributes:
        pixels: (H, W) or (H, W, C) uint8 or uint16, read-only; C is 2 (gray, alpha), 3 (RGB) or 4 (RGBA, straight
            alpha). What the output must equal wherever the mask is 0.
        rgb: (H, W, 3) uint8, read-only: what the model sees. Transparent pixels lie on white; 16 bits are scaled to 8.
        icc: the embedded ICC profile.
        format: the container that it came in: png, jpeg, webp, tiff, bmp, gif, jpeg2000, avif, heif
            or jxl.
        conversions: one sentence for each thing that was converted or dropped on the way in.
        metadata: what goes on to the output besides the pixels.
    """

    pixels: np.ndarray
    rgb: np.ndarray
    icc: bytes | None
    format: str
    conversions: tuple[str, ...]
    metadata: Metadata = NOTHING

    @property
    def width(self) -> int:
        """Pixels from left to right, upright."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels from top to bottom, upright."""
        return int(self.pixels.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), upright."""
        return self.width, self.height


def decode_source(data: bytes, *, max_pixels: int, metadata: Policy = "safe", frames: Frames = "one") -> Source:
    """Decode a source image: PNG, JPEG, WebP, TIFF, BMP, GIF, JPEG 2000, AVIF, HEIC or JPEG XL; gray, RGB, CMYK or
    palette, with or without alpha, 8 or 16 bits.

    Args:
        data: the whole file.
        max_pixels: the most pixels that it may have; checked from the header, before anything is decoded.
        metadata: what becomes of texts, EXIF and XMP: `safe` keeps all but location, serial numbers and thumbnails.
        frames: "first" takes the first of several frames or pages; "one" refuses such a file.

    Raises ImageError when the file is none of these, damaged or cut off, animated or of several pages, too large, or of
    a kind that cannot be kept (32-bit, float).
    """
    decoded = read_pixels(data, what="image", max_pixels=max_pixels, metadata=metadata, frames=frames)
    rgb = to_rgb(decoded.array)
    rgb.setflags(write=False)
    return Source(decoded.array, rgb, decoded.icc, decoded.format, decoded.conversions, decoded.metadata)


def read_pixels(
    data: bytes, *, what: str, max_pixels: int, metadata: Policy | None = None, frames: Frames = "one"
) -> Pixels:
    """Decode one picture; `what` ("image", "mask") begins its errors. Without a policy, metadata is not looked at.

    Raises ImageError, as `decode_source`.
    """
    with opened(data, what=what, max_pixels=max_pixels, frames=frames) as (image, found):
        return _read(image, data, found, max_pixels, metadata)


@contextmanager
def opened(
    data: bytes, *, what: str, max_pixels: int, frames: Frames = "one"
) -> Iterator[tuple[ImageFile.ImageFile, Format]]:
    """One picture, opened and found to be no larger, longer or costlier than it may be, and not yet decoded; and its
    format. What is raised within becomes an ImageError that begins with `what`.
    """
    found = format_of(data)
    if found is not None:
        with _one_line_errors(what, found.name):
            if check := _BEFORE_OPENING.get(found.name):
                check(data)
            if found.name == "tiff":
                tiff.check_kind(data)
            if found.name == "jxl":  # which its plugin decodes as soon as it opens it
                header = jxl.read_header(data)
                _check_size((header.width, header.height), max_pixels)
                _check_frames(header.is_animated, frames)
            with found.open_with()(BytesIO(data)) as image:  # reads the header
                _check_size(image.size, max_pixels)
                costs.check_cost(image, data)
                if isinstance(image, TiffImageFile):
                    costs.check_blocks(image.tag_v2, image.size, data)
                _check_frames(getattr(image, "is_animated", False), frames)
                yield image, found
                return
    raise ImageError(f"the {what} {what_it_is(data)}")


@contextmanager
def _one_line_errors(what: str, name: str) -> Iterator[None]:
    """Name the picture in our own errors, and turn whatever a decoder raises on foreign bytes into an ImageError."""
    try:
        yield
    except MemoryError:
        raise
    except ImageError as error:
        raise ImageError(f"the {what} ({name}) {error}") from error.__cause__
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, cv2.error, IndexError, ...
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ImageError(f"the {what} ({name}) cannot be decoded ({reason}): {png.AGAIN}") from error


def _read(image: ImageFile.ImageFile, data: bytes, found: Format, max_pixels: int, policy: Policy | None) -> Pixels:
    if found.name == "jpeg":
        jpeg.check_complete(data, colours=len(image.getbands()))
    conversions: list[str] = []
    header = jxl.read_header(data) if found.name == "jxl" else None
    if getattr(image, "is_animated", False) or (header is not None and header.is_animated):
        conversions.append("only the first of several frames or pages was used (INPAINT_FRAMES=first)")
    icc: bytes | None = image.info.get("icc_profile") or None
    if image.mode == "CMYK":
        if isinstance(image, TiffImageFile):
            tiff.check_tags(dict(image.tag_v2), file_bytes=len(data), max_pixels=max_pixels)
            tiff.is_16_bit_colour(dict(image.tag_v2))  # which is refused for CMYK
        array, icc = cmyk.to_srgb(image, icc, conversions)
        orientation = _orientation(image, conversions)
        if orientation in _TURNS and not isinstance(image, TiffImageFile):
            array = np.ascontiguousarray(_TURNS[orientation][1](array))
    elif isinstance(image, TiffImageFile):
        array, orientation = _tiff_array(image, data, max_pixels, conversions)
    else:
        array = _png_array(image, data, conversions) if isinstance(image, PngImageFile) else _array(image, conversions)
        orientation = _orientation(image, conversions)  # a PNG's may stand behind its pixels
        if header is not None and orientation in _TURNS and not getattr(image, "jpeg", False):
            # ISO/IEC 18181-2: what EXIF says does not count, and the decoder has applied what the image itself says. A
            # JPEG that was packed without loss comes out as it went in.
            conversions[-1] = f"EXIF orientation {orientation} was not applied: a JPEG XL file has one of its own"
            orientation = 1
        elif orientation in _TURNS:
            array = np.ascontiguousarray(_TURNS[orientation][1](array))
    if found.bits_at is not None and array.dtype == np.uint8 and found.bits_at.search(data):
        conversions.append(f"more than 8 bits per channel became 8: {found.name} is read in 8")
    if header is not None and header.bits > 8 and array.dtype == np.uint8:
        conversions.append(f"{header.bits} bits per channel became 8: {found.name} is read in 8")
    if "mp" in image.info:
        conversions.append("pictures embedded behind the first (MPO: depth, gain map, stereo) are not kept")
    metadata = NOTHING
    if policy is not None:
        if header is not None and "xmp" not in image.info and (xmp := jxl.read_xmp(data)):
            image.info["xmp"] = xmp
        size = array.shape[1], array.shape[0]
        metadata = read_metadata(
            image, data, policy=policy, orientation=orientation, size=size, conversions=conversions
        )
    array.setflags(write=False)
    return Pixels(array, icc, found.name, tuple(conversions), metadata)


def _check_frames(is_animated: bool, frames: Frames) -> None:
    if is_animated and frames != "first":
        raise ImageError(
            "has several frames or pages: export the one to paint as a file of its own, or set INPAINT_FRAMES=first"
        )


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"is {width}x{height}, more than the limit of {max_pixels} pixels: "
            "make it smaller, or raise INPAINT_MAX_PIXELS"
        )


def _orientation(image: Image.Image, conversions: list[str]) -> int:
    """The EXIF orientation, 1 when there is none; recorded when it will turn the pixels."""
    try:
        value = exif_of(image).get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error):
        conversions.append("EXIF data is damaged: its orientation, if it had one, was not applied")
        return 1
    if not isinstance(value, int) or value not in _TURNS:
        return 1
    conversions.append(f"EXIF orientation {value} was applied: {_TURNS[value][0]}")
    return value


def _png_array(image: PngImageFile, data: bytes, conversions: list[str]) -> np.ndarray:
    header = png.read_header(data)
    png.check_complete(data)
    if header.bit_depth == 16 and header.colour_type in (2, 4, 6):
        array = _decode_16_bit(data)
        if header.colour_type == 4:  # OpenCV repeats gray in three channels
            return np.ascontiguousarray(array[..., [0, 3]])
        if header.colour_type == 2 and array.shape[2] == 4:
            conversions.append("the transparent colour (tRNS) became an alpha channel")
        return array
    transparent = None if image.mode in ("P", "PA") else image.info.pop("transparency", None)
    array = _array(image, conversions)
    if transparent is None:
        return array
    conversions.append("the transparent colour (tRNS) became an alpha channel")
    if array.ndim == 2 and header.bit_depth in (2, 4):  # 1-bit is scaled by Pillow already
        transparent = transparent * (255 // (2**header.bit_depth - 1))
    bound = np.asarray(transparent, np.float64)
    hit = cv2.inRange(array, bound, bound)  # 255 where equal
    alpha = cv2.bitwise_not(hit) if array.dtype == np.uint8 else np.where(hit, 0, 65535).astype(np.uint16)
    return cv2.merge((*cv2.split(array), alpha))


def _tiff_array(image: TiffImageFile, data: bytes, max_pixels: int, conversions: list[str]) -> tuple[np.ndarray, int]:
    """The pixels of a TIFF, and its orientation; Pillow and OpenCV both apply it themselves."""
    tags = dict(image.tag_v2)
    tiff.check_tags(tags, file_bytes=len(data), max_pixels=max_pixels)
    upright = image.size
    orientation = _orientation(image, conversions)
    if tiff.is_16_bit_colour(tags):
        array = _decode_16_bit(data)
        if array.shape[2] == 4 and tiff.has_unnamed_channel(tags):
            array = np.ascontiguousarray(array[..., :3])
    else:
        if tiff.is_signed_gray(tags) and image.mode == "I":
            image.load()
            array = np.asarray(image)
        else:
            array = _array(image, conversions)
        if array.dtype == np.uint16 and tiff.is_white_zero(tags):
            array = 65535 - array
            conversions.append("16-bit gray in which 0 is white was inverted, so that 0 is black")
        if tiff.has_premultiplied_alpha(tags):
            conversions.append("premultiplied alpha became straight alpha")
    array = tiff.as_unsigned(tags, array, conversions)
    if tiff.has_unnamed_channel(tags):
        conversions.append("a channel that is neither colour nor alpha was dropped")
    if (array.shape[1], array.shape[0]) != upright:
        raise ImageError(f"was not decoded at the size that its header names: {png.AGAIN}")
    return array, orientation


def _decode_16_bit(data: bytes) -> np.ndarray:
    """Decode 16-bit colour by OpenCV, since Pillow gives 8 bits. (H, W, 3 or 4) uint16, red first."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ImageError(f"holds 16-bit colour that cannot be decoded: {png.AGAIN}")
    return cv2.cvtColor(array, cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _array(image: ImageFile.ImageFile, conversions: list[str]) -> np.ndarray:
    """Decode, and bring the mode to one that can be kept: gray, gray with alpha, RGB or RGBA."""
    if image.mode not in _MODES:
        raise ImageError(f"has the mode {image.mode}, which is not supported: convert it to RGB")
    image.load()
    plain: Image.Image = image
    if image.mode in ("P", "PA"):
        target = "RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB"
        plain = image.convert(target)
        conversions.append(f"palette colours became {target}")
    elif image.mode == "1":
        plain = image.convert("L")
        conversions.append("1-bit pixels became 8-bit gray")
    array = np.asarray(plain)
    return array.astype(np.uint16) if plain.mode.startswith("I;16") else array


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """What a viewer on a white page would see: (H, W, 3) uint8 of (H, W[, C]) uint8 or uint16 pixels.

    Alpha lies on white; 16 bits are scaled to 8 by rounding v / 257. Returns `pixels` itself where nothing changes.
    """
    eight = to_8_bit(pixels)
    if eight.ndim == 2:
        return cv2.cvtColor(eight, cv2.COLOR_GRAY2RGB)
    if eight.shape[2] == 3:
        return eight
    colour = Image.fromarray(np.ascontiguousarray(eight[..., 0] if eight.shape[2] == 2 else eight[..., :3]))
    alpha = Image.fromarray(np.ascontiguousarray(eight[..., -1]))
    flat = np.asarray(Image.composite(colour, Image.new(colour.mode, colour.size, "white"), alpha))
    return cv2.cvtColor(flat, cv2.COLOR_GRAY2RGB) if flat.ndim == 2 else flat


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """uint16 -> uint8 by rounding v / 257 (exact: 257 is odd, so there are no ties); uint8 is returned as it is."""
    if pixels.dtype == np.uint8:
        return pixels
    return cv2.convertScaleAbs(pixels, alpha=1 / 257).reshape(pixels.shape)
