"""`format: source`: a JPEG written as its source is, by the same tables; and what of a source cannot be had again."""

# ruff: noqa: A002 - `format` is the manifest's own name for it

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO
from typing import Final

from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from inpaint_ops.config import EXTENSIONS, Chroma, ImageFormat
from inpaint_ops.images.encoding import JpegOptions
from inpaint_ops.images.jpeg import frame_marker
from inpaint_ops.images.metadata import ORIENTATION, exif_of
from inpaint_ops.images.reading import Source

_CHROMA: Final[dict[int, Chroma]] = {0: "444", 1: "422", 2: "420"}
"""By Pillow's numbers."""
_TRANSPOSED = range(5, 9)
"""EXIF orientations that swap width and height."""
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
"""Frame headers of arithmetic coding (ITU-T T.81, table B.1)."""


def options_like(
    data: bytes,
    source: Source,
    format: ImageFormat,
    options: JpegOptions,
) -> tuple[JpegOptions, tuple[str, ...]]:
    """How to write the image of a source as the source is written, and a sentence for each thing that is not as there.

    Quantization tables, how colour is kept, and whether coarse comes first are the source's where it is a JPEG of gray
    or YCbCr; where that cannot be had they are those of `options`. All blocks are encoded again. Of an AVIF nothing is
    taken over but the format.

    Args:
        data: the source's file.
        source: what `decode_source` made of it.
        format: what is written.
        options: how the job writes JPEGs.
    """
    if source.format != format:
        why = "is not what its name says" if source.format in EXTENSIONS else "is not written here"
        return options, (f"format source: {source.format} {why}, {format} was written",)
    if format == "avif":
        return options, ("format source: an AVIF does not name its quality, so the job's quality and chroma were used",)
    if format != "jpeg":
        return options, ()
    with JpegImageFile(BytesIO(data)) as image:
        bands, quantization, layers = image.mode, image.quantization, image.layer
        sampling = get_sampling(image)
        orientation = _orientation(image)
        progressive = bool(image.info.get("progressive"))
        adobe = image.info.get("adobe_transform")
    notes = ["arithmetic coding became Huffman coding"] if frame_marker(data) in _ARITHMETIC else []
    if bands not in ("L", "RGB") or (bands == "RGB" and adobe == 0):
        kind = "RGB" if bands == "RGB" else bands
        return options, (f"format source: the source's colours are {kind}, the job's JPEG quality was used", *notes)
    used = [list(quantization.get(layer[3], ())) for layer in layers]
    if any(len(table) != 64 or max(table) > 255 for table in used) or used[1:2] != used[2:3]:
        return options, ("format source: its quantization tables are of an unusual kind, the job's were used", *notes)
    tables = tuple(tuple(table) for table in used[:2])
    chroma = _CHROMA.get(sampling) if bands == "RGB" else "444"
    if orientation in _TRANSPOSED:
        tables = tuple(tuple(table[8 * column + row] for row in range(8) for column in range(8)) for table in tables)
        chroma = None if chroma == "422" else chroma
    if chroma is None:
        chroma = "444"
        notes.append("format source: how the source halves colour cannot be written, so colour is kept at full size")
    return replace(options, tables=tables, chroma=chroma, progressive=progressive), tuple(notes)


def _orientation(image: JpegImageFile) -> object:
    try:
        return exif_of(image).get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, struct.error):
        return 1  # as it was read
