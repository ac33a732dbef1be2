"""Pixels -> bytes of an image file, and a sentence for each thing that the format cannot hold."""
# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image, features

from inpaint_ops.config import Chroma, ImageFormat
from inpaint_ops.errors import ImageError
from inpaint_ops.images import png, tiff
from inpaint_ops.images.formats import JXL_PLUGIN
from inpaint_ops.images.metadata import NOTHING, Metadata, lost, png_chunks, save_options
from inpaint_ops.images.placing import resize
from inpaint_ops.images.profiles import says_srgb
from inpaint_ops.images.reading import Source, read_pixels, to_8_bit, to_rgb

Format = ImageFormat
"""What we write. png, webp and jxl (in their lossless modes) and tiff are lossless."""

MEDIA_TYPES: Final[dict[Format, str]] = {
    "png": "image/png",
    "webp": "image/webp",
    "tiff": "image/tiff",
    "jpeg": "image/jpeg",
    "avif": "image/avif",
    "jxl": "image/jxl",
}
LOSSLESS: Final[frozenset[Format]] = frozenset({"png", "webp", "tiff", "jxl"})
"""Formats in which every pixel comes back as it was, up to what `output_conversions` says."""

_LONGEST_SIDE: Final[dict[Format, int]] = {
    "png": 1_000_000, "webp": 16_383, "tiff": 2**31 - 1, "jpeg": 65_500, "avif": 32_768,
    "jxl": 2**18,
}  # fmt: skip
"""Pixels: what libpng, libwebp and libjpeg take, and what libavif and plain readers of
JPEG XL (level 5, ISO/IEC 18181-1:2024, annex M) read unless they are told to read more.
"""
_MOST_PIXELS: Final[dict[Format, int]] = {"avif": 2**28, "jxl": 2**28}
"""Of a whole image, likewise."""
_AVIF_EFFORT: Final = {"speed": 6, "max_threads": 4, "autotiling": False}
"""libavif's own speed. The bytes depend on the number of threads, and tiling by itself on the machine's, so both are
fixed: the same job writes the same file everywhere.
"""
_SUBSAMPLING: Final[dict[Chroma, int]] = {"444": 0, "422": 1, "420": 2}


_JXL_EFFORT: Final = {"lossless": True, "effort": 3, "num_threads": 4, "use_container": True}
"""The effort of libjxl at which a megapixel of a photo takes about 0.2 s of a processor. The plugin
would store 16 bits of gray alone, and as linear light, which no source of ours means: so all is written with 8.
Only a container can be signed.
"""


@dataclass(frozen=True, slots=True)
class JpegOptions:
    """How a JPEG is written: quality 1 to 100 on libjpeg's scale, how colour is kept, whether coarse comes first."""

    quality: int = 95
    chroma: Chroma = "444"
    progressive: bool = False
    tables: tuple[tuple[int, ...], ...] = ()
    """Quantization tables, of 64 values in rows, in place of `quality`: for gray or luma, and for colour."""

    @property
    def text(self) -> str:
        """What it loses by, for people."""
        how = "the source's quantization tables" if self.tables else f"quality {self.quality}"
        return how + ("" if self.chroma == "444" else f", colour at {':'.join(self.chroma)}")


@dataclass(frozen=True, slots=True)
class AvifOptions:
    """How an AVIF is written: quality 1 to 100 on libavif's scale, and how colour is kept."""

    quality: int = 90
    chroma: Chroma = "444"

    @property
    def text(self) -> str:
        """What it loses by, for people."""
        return f"quality {self.quality}" + ("" if self.chroma == "444" else f", colour at {':'.join(self.chroma)}")


_FINE = JpegOptions()
_FINE_AVIF = AvifOptions()


def output_conversions(
    source: Source, format: Format, jpeg: JpegOptions = _FINE, avif: AvifOptions = _FINE_AVIF
) -> tuple[str, ...]:
    """What the format cannot hold of this source: one sentence each, empty when it holds everything."""
    gray, alpha = _is_gray(source.pixels), _has_alpha(source.pixels)
    wide = source.pixels.dtype == np.uint16
    conversions = []
    if wide and format in ("webp", "jpeg"):
        conversions.append(f"16 bits per channel became 8: {format} cannot store 16")
    if wide and format in ("avif", "jxl"):
        conversions.append(f"16 bits per channel became 8: {format} is written with 8 here")
    if alpha and format == "jpeg":
        conversions.append("transparency was flattened onto white: jpeg has no alpha")
    if gray and format == "webp":
        conversions.append("gray became RGB of equal channels: webp has no gray")
    if source.icc and format == "jxl":
        conversions.append("the ICC profile, which says sRGB, was left out: jxl says so itself")
    if gray and alpha and format == "avif":
        conversions.append("gray with alpha became RGBA: avif is written with alpha in colour alone here")
    if gray and alpha and wide and format == "tiff":
        conversions.append(
            "16-bit gray with alpha became RGBA of equal channels, which more readers of tiff understand"
        )
    if source.icc and _loses_profile(source.pixels, source.icc, format):
        conversions.append("the gray ICC profile was dropped, since gray became RGB")
    conversions += lost(source.metadata, format)
    if format in ("jpeg", "avif"):
        how = jpeg.text if format == "jpeg" else avif.text
        conversions.append(f"{format} is lossy ({how}): unmasked pixels are close to the source's, not equal")
    return tuple(conversions)


def check_writable(format: Format) -> None:
    """Raise ImageError when this installation cannot write the format: to be asked before anything is painted."""
    if format == "avif" and not features.check("avif"):
        raise ImageError(
            "format: avif: the Pillow that is installed on the machine that paints writes no AVIF: "
            "install Pillow 11.3 or later from its wheels there, or choose another format"
        )
    if format == "jxl" and importlib.util.find_spec("pillow_jxl") is None:
        raise ImageError(
            f"format: jxl: the machine that paints writes no JPEG XL: install {JXL_PLUGIN} there, "
            "or choose another format"
        )


def check_profile(icc: bytes | None, format: Format) -> None:
    """Raise ImageError when the format cannot keep what the colours mean: to be asked before anything is painted."""
    if icc and format == "jxl" and not says_srgb(icc):
        raise ImageError(
            "the source's colour profile is not sRGB, and jxl is written here without a profile: "
            "choose png, tiff or webp, or convert the source to sRGB"
        )


def check_output_size(size: tuple[int, int], format: Format) -> None:
    """Raise ImageError when the format cannot hold a (width, height): to be asked before anything is painted."""
    if max(size) > _LONGEST_SIDE[format]:
        raise ImageError(
            f"the output is {size[0]}x{size[1]} and {format} ends at {_LONGEST_SIDE[format]} pixels per side: "
            "choose png or tiff"
        )
    most = _MOST_PIXELS.get(format)
    if most is not None and size[0] * size[1] > most:
        raise ImageError(f"the output is {size[0]}x{size[1]} and {format} ends at {most:,} pixels: choose png or tiff")


def encode(
    pixels: np.ndarray,
    *,
    format: Format,
    icc: bytes | None,
    metadata: Metadata = NOTHING,
    effort: png.Effort = "fast",
    jpeg: JpegOptions = _FINE,
    avif: AvifOptions = _FINE_AVIF,
) -> bytes:
    """Encode pixels.

    Args:
        pixels: (H, W) or (H, W, C) uint8 or uint16; C is 2 (gray, alpha), 3 or 4 (straight alpha).
        format: png, webp, tiff and jxl lose nothing but what `output_conversions` says.
        icc: a profile to embed, or None.
        metadata: what else to embed, as far as the format can hold it.
        effort: how hard to compress a PNG.
        jpeg: how to write a JPEG.
        avif: how to write an AVIF.

    Raises ImageError when the format cannot hold an image of this size, or is not written by this installation.
    """
    check_writable(format)
    check_profile(icc, format)
    check_output_size((pixels.shape[1], pixels.shape[0]), format)
    if icc and _loses_profile(pixels, icc, format):
        icc = None
    if format == "png":
        data = png.write(pixels, icc=icc, effort=effort)
        return png.with_chunks(data, png_chunks(metadata, has_icc=icc is not None))
    if pixels.dtype == np.uint16 and format == "tiff":
        wide = _to_rgba(pixels) if _is_gray(pixels) and _has_alpha(pixels) else pixels
        data = tiff.write_16_bit(wide, icc=icc, resolution=metadata.resolution, xmp=metadata.xmp)
        return tiff.with_exif(data, metadata.exif) if metadata.exif else data
    if format == "jxl":
        importlib.import_module("pillow_jxl")  # which registers itself with Pillow
        icc = None  # it says sRGB
    eight = to_8_bit(pixels)
    if format == "jpeg" and _has_alpha(eight):
        eight = to_rgb(eight)[..., 0] if _is_gray(eight) else to_rgb(eight)
    if format == "avif" and _is_gray(eight) and _has_alpha(eight):
        eight = _to_rgba(eight)
    if format == "webp" and _is_gray(eight):
        eight = _to_rgba(eight) if _has_alpha(eight) else cv2.cvtColor(eight, cv2.COLOR_GRAY2RGB)
    options: dict[Format, dict[str, Any]] = {
        "webp": {"lossless": True, "exact": True, "method": 4},  # exact: colours under transparent pixels are kept
        "tiff": {"compression": "tiff_adobe_deflate"},
        "jpeg": {
            **({"qtables": [list(table) for table in jpeg.tables]} if jpeg.tables else {"quality": jpeg.quality}),
            "subsampling": _SUBSAMPLING[jpeg.chroma],
            "progressive": jpeg.progressive,
        },
        "jxl": {**_JXL_EFFORT},
        "avif": {
            **_AVIF_EFFORT,
            "quality": avif.quality,
            "subsampling": "4:0:0" if _is_gray(eight) else ":".join(avif.chroma),
        },
    }
    data = _save(eight, format, icc_profile=icc, **options[format], **save_options(metadata, format))
    return tiff.with_exif(data, metadata.exif) if format == "tiff" and metadata.exif else data


def thumbnail(
    image: bytes | np.ndarray, longest: int = 256, quality: int = 80, *, max_pixels: int = 100_000_000
) -> bytes:
    """A small JPEG of pixels, or of a file that is our own: alpha on white, 8 bits, never enlarged.

    Of foreign files, `inpaint_ops.previews` makes one where they can hurt nobody.

    Args:
        image: an image file, or (H, W[, C]) uint8 or uint16 pixels (a mask, too).
        longest: pixels of the longer side, at most.
        quality: of the JPEG, 1 to 95.
        max_pixels: the most pixels that a file may have.

    Raises ImageError when the file cannot be decoded.
    """
    if isinstance(image, bytes):
        image = read_pixels(image, what="image", max_pixels=max_pixels).array
    height, width = image.shape[:2]
    scale = min(1.0, longest / max(height, width))
    small = resize(to_rgb(image), (max(1, round(width * scale)), max(1, round(height * scale))))
    return _save(small, "jpeg", quality=quality, optimize=True)


def save_lossy_webp(
    pixels: np.ndarray, *, quality: int, effort: int, icc: bytes | None, metadata: Metadata = NOTHING
) -> bytes:
    """(H, W, 3) uint8 pixels as a lossy WebP: `quality` 1 to 100, `effort` 0 to 6. Raises ImageError."""
    return _save(pixels, "webp", quality=quality, method=effort, icc_profile=icc, **save_options(metadata, "webp"))


def _save(pixels: np.ndarray, format: Format, **options: Any) -> bytes:
    buffer = BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format, **options)
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:  # RuntimeError: libavif's
        reason = " ".join(str(error).split())
        raise ImageError(f"the output cannot be encoded as {format} ({reason}): choose another format") from error
    return buffer.getvalue()


def _is_gray(pixels: np.ndarray) -> bool:
    return pixels.ndim == 2 or pixels.shape[2] == 2


def _has_alpha(pixels: np.ndarray) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def _to_rgba(gray_alpha: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(gray_alpha[..., [0, 0, 0, 1]])


def _loses_profile(pixels: np.ndarray, icc: bytes, format: Format) -> bool:
    """Whether gray is written as RGB while its profile is for gray (ICC.1:2022: colour space at bytes 16-19)."""
    as_rgb = format == "webp" or (
        _has_alpha(pixels) and (format == "avif" or (format == "tiff" and pixels.dtype == np.uint16))
    )
    return as_rgb and _is_gray(pixels) and icc[16:20] == b"GRAY"
