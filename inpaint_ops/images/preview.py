"""Small pictures of image files, for pages and reports: quick and frugal, where the worker's decoding is exact.

A JPEG is decoded at a fraction of its size, 16-bit colour as 8 bits, and nothing is inflated twice: these pictures are
for people to look at. Only a mask is read as it is for painting, since its levels may mean anything. Call it in a
process that may die (`inpaint_ops.previews`).
"""

from __future__ import annotations

import math
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from inpaint_ops.errors import ImageError
from inpaint_ops.images import tiff
from inpaint_ops.images.mask_meaning import MaskChannel, weights_of
from inpaint_ops.images.reading import opened, read_pixels
from inpaint_ops.images.thumbnails import small_profile

_MAGENTA = (230, 0, 126)
_OPACITY = 0.6
_QUALITY = 80


def preview(data: bytes, longest: int, *, max_pixels: int) -> bytes:
    """A small JPEG of an image file: upright, alpha on white, 8 bits, never enlarged.

    Args:
        data: the whole file, PNG, JPEG, WebP, TIFF or BMP.
        longest: pixels of the longer side, at most.
        max_pixels: the most pixels that the file may have.

    Raises ImageError, MemoryError.
    """
    picture, icc = _small(data, longest, max_pixels)
    return as_jpeg(picture, icc=icc)


def mask_layer(
    data: bytes,
    longest: int,
    *,
    max_pixels: int,
    channel: MaskChannel = "auto",
    threshold: int | None = None,
    invert: bool = False,
) -> bytes:
    """A mask file as a small PNG to lay over its image: magenta where the mask means "paint", else transparent.

    What it means is found out as for painting (`read_mask`, whose arguments these are), before it is grown, feathered
    or scaled. So the mask is decoded whole: it takes more than a photo's `preview`.

    Raises MaskError for a mask that could mean two things, ImageError, MemoryError.
    """
    weights, _ = weights_of(read_pixels(data, what="mask", max_pixels=max_pixels), channel=channel, threshold=threshold)
    scale = min(1.0, longest / max(weights.shape))
    size = max(1, round(weights.shape[1] * scale)), max(1, round(weights.shape[0] * scale))
    return painted_layer(cv2.resize(weights, size, interpolation=cv2.INTER_AREA), invert=invert)


def painted_layer(weights: np.ndarray, *, invert: bool = False) -> bytes:
    """A PNG of the size of (H, W) uint8 weights: magenta where they paint, else transparent."""
    levels = Image.fromarray(weights)
    layer = Image.new("RGBA", levels.size, (*_MAGENTA, 0))
    layer.putalpha(levels.point([round((255 - level if invert else level) * _OPACITY) for level in range(256)]))
    sink = BytesIO()
    layer.save(sink, "PNG", optimize=True)
    return sink.getvalue()


def mask_overlay(source: bytes, layer: bytes) -> bytes:
    """Lay what `mask_layer` made over the thumbnail of its source.

    Takes image files, small ones; returns a JPEG of the source's size. Raises OSError for what is no image.
    """
    with Image.open(BytesIO(source)) as first, Image.open(BytesIO(layer)) as second:
        picture = first.convert("RGB")
        opacity = second.convert("RGBA").getchannel("A").resize(picture.size, Image.Resampling.BILINEAR)
    return as_jpeg(Image.composite(Image.new("RGB", picture.size, _MAGENTA), picture, opacity))


def as_jpeg(picture: Image.Image, *, icc: bytes | None = None, quality: int = _QUALITY) -> bytes:
    """A JPEG file, with the colour profile that `shown_profile` found."""
    sink = BytesIO()
    picture.convert("RGB").save(sink, "JPEG", quality=quality, optimize=True, icc_profile=icc)
    return sink.getvalue()


def shown_profile(image: Image.Image) -> bytes | None:
    """The file's profile, where it is of RGB and small: all of a row's pictures have the same colours then."""
    icc = image.info.get("icc_profile")
    return small_profile(icc) if isinstance(icc, bytes) else None


def _small(data: bytes, longest: int, max_pixels: int) -> tuple[Image.Image, bytes | None]:
    """Gray or RGB, upright, on white; and its profile."""
    with opened(data, what="image", max_pixels=max_pixels, frames="first") as (image, _):
        if isinstance(image, JpegImageFile):
            image.draft(image.mode, (2 * longest, 2 * longest))  # at 1/2, 1/4 or 1/8, but twice as large as needed
        orientation, invert = load_upright(image, data, max_pixels)
        scale = min(1.0, longest / max(image.size))
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        small = turned(on_white(shrunk(image, size)), orientation)
        return ImageOps.invert(small) if invert else small, shown_profile(image)


def upright_size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Width and height of an image file, upright, in pixels; nothing but its header is decoded. Raises ImageError."""
    with opened(data, what="image", max_pixels=max_pixels, frames="first") as (image, _):
        if isinstance(image, TiffImageFile):  # which says its upright size
            return image.size
        return image.size[::-1] if _orientation(image) >= 5 else image.size


def load_upright(image: ImageFile.ImageFile, data: bytes, max_pixels: int) -> tuple[int, bool]:
    """Decode an opened picture. Returns the EXIF orientation that its pixels have yet to be turned by, and whether its
    gray is yet to be inverted.
    """
    if not isinstance(image, TiffImageFile):
        image.load()
        return _orientation(image), False  # a PNG's may stand behind its pixels
    tags = dict(image.tag_v2)
    tiff.check_tags(tags, file_bytes=len(data), max_pixels=max_pixels)
    image.load()  # this turns a TIFF's pixels, too
    return 1, image.mode.startswith("I;16") and tiff.is_white_zero(tags)


def shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at `size`, which is no larger, in 8 bits: L, LA, RGB or RGBA."""
    if image.mode.startswith("I;16") or image.mode == "I":  # `I`: signed gray of 16 bits
        wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint16, copy=False)
        wide = cv2.resize(wide, size, interpolation=cv2.INTER_AREA)
        return Image.fromarray(cv2.convertScaleAbs(wide, alpha=1 / 257))
    factor = max(1, math.floor(0.5 * max(image.size) / max(size)))
    if image.mode == "CMYK":  # close enough for a thumbnail: no profile is applied
        image = image.convert("RGB")
    if image.mode in ("P", "PA", "1") or "transparency" in image.info:
        transparent = image.mode == "PA" or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"has the mode {image.mode}, which is not supported: convert it to RGB")
    if factor > 1:
        image = image.reduce(factor)
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def on_white(picture: Image.Image) -> Image.Image:
    """L or RGB of L, LA, RGB or RGBA."""
    if picture.mode not in ("LA", "RGBA"):
        return picture
    white = Image.new(picture.mode, picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB" if picture.mode == "RGBA" else "L")


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # as the worker does: it says so in the row's record
        return 1
    return value if isinstance(value, int) else 1


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture upright, by an EXIF orientation."""
    if orientation not in range(2, 9):
        return picture
    picture.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(picture)
