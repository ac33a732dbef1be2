"""Parts of a picture at its own size or at 1/2, 1/4, 1/8 ... of it, for a viewer that zooms: blocks of tiles.

Level 0 is the picture's own size, and level n is 2^n times smaller, rounded up. A tile has `TILE` pixels on each side,
or fewer at the right and the bottom; a block is `SIDE` by `SIDE` tiles, since most files have to be decoded as a whole
for any part of them. Everything counts from the top left of the upright picture. Call it in a process that may die.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from inpaint_ops.errors import ImageError
from inpaint_ops.images.mask_meaning import MaskChannel, weights_of
from inpaint_ops.images.preview import as_jpeg, load_upright, on_white, painted_layer, shown_profile, shrunk, turned
from inpaint_ops.images.reading import opened, read_pixels

TILE = 1024
"""Pixels."""

SIDE = 4
"""Tiles. A block of noise, at our quality, has half the bytes that a helper may answer with."""

MAX_LEVEL = 16
_QUALITY = 85

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1."""


@dataclass(frozen=True, slots=True)
class Block:
    """Which block of a picture: its level, and how many blocks are to the left of it and above it."""

    level: int
    column: int
    row: int

    @classmethod
    def of_tile(cls, level: int, column: int, row: int) -> tuple[Block, int]:
        """The block that a tile is in, and its place among the block's tiles."""
        return cls(level, column // SIDE, row // SIDE), row % SIDE * SIDE + column % SIDE

    def boxes(self, size: tuple[int, int]) -> tuple[Box, tuple[int, int]]:
        """The block in pixels of a picture of `size` (width, height), and its own size at its level.

        Raises ImageError where the picture has no such block.
        """
        scale, span = 2**self.level, TILE * SIDE
        at_level = -(-size[0] // scale), -(-size[1] // scale)
        x0, y0 = self.column * span, self.row * span
        x1, y1 = min(at_level[0], x0 + span), min(at_level[1], y0 + span)
        if not (0 <= self.level <= MAX_LEVEL and 0 <= x0 < x1 and 0 <= y0 < y1):
            raise ImageError(f"is {size[0]}x{size[1]} and has no such tile")
        box = x0 * scale, y0 * scale, min(size[0], x1 * scale), min(size[1], y1 * scale)
        return box, (x1 - x0, y1 - y0)


def picture_tiles(data: bytes, block: Block, *, max_pixels: int) -> list[bytes]:
    """The block's tiles as JPEG files, row by row, as `preview` would show them; empty where the picture has ended.

    Raises ImageError, MemoryError.
    """
    with opened(data, what="image", max_pixels=max_pixels, frames="first") as (image, _):
        whole = image.size
        if isinstance(image, JpegImageFile):
            image.draft(image.mode, (max(1, whole[0] >> block.level), max(1, whole[1] >> block.level)))
        orientation, invert = load_upright(image, data, max_pixels)
        # What draft has made is 2, 4 or 8 times smaller; loading a TIFF may have turned it.
        factor = max(1, round(max(whole) / max(image.size)))
        stored = whole if factor > 1 else image.size
        box, size = block.boxes(stored[::-1] if orientation >= _SWAPPED else stored)
        x0, y0, x1, y1 = _stored_box(box, stored, orientation)
        small = _part(
            image,
            (x0 // factor, y0 // factor, -(-x1 // factor), -(-y1 // factor)),
            2**block.level // factor,
            size[::-1] if orientation >= _SWAPPED else size,
        )
        small = turned(on_white(small), orientation)
        picture, icc = ImageOps.invert(small) if invert else small, shown_profile(image)
    return cut(np.asarray(picture), lambda tile: as_jpeg(Image.fromarray(tile), icc=icc, quality=_QUALITY))


def mask_tiles(
    data: bytes,
    block: Block,
    size: tuple[int, int],
    *,
    max_pixels: int,
    channel: MaskChannel = "auto",
    threshold: int | None = None,
    invert: bool = False,
) -> list[bytes]:
    """The block's tiles as PNG files, as `mask_layer` would show them over a picture of `size` (width, height).

    A mask of another size is scaled by nearest pixel, as for painting. Raises ImageError, MemoryError.
    """
    pixels = read_pixels(data, what="mask", max_pixels=max_pixels)
    weights, _ = weights_of(pixels, channel=channel, threshold=threshold)
    (x0, y0, x1, y1), shown = block.boxes(size)
    height, width = weights.shape
    rows = (np.arange(y0, y1) * height) // size[1]
    columns = (np.arange(x0, x1) * width) // size[0]
    part = np.ascontiguousarray(weights[rows][:, columns] if (width, height) != size else weights[y0:y1, x0:x1])
    small = cv2.resize(part, shown, interpolation=cv2.INTER_AREA)
    return cut(small, lambda tile: painted_layer(np.ascontiguousarray(tile), invert=invert))


def _part(image: Image.Image, box: Box, step: int, size: tuple[int, int]) -> Image.Image:
    """What is in the box, `step` times smaller: as `shrunk` has it, and without a copy of a picture that is plain."""
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info and step > 1:
        return image.reduce(step, box)
    return shrunk(image.crop(box), size)


def cut(block: np.ndarray, write: Callable[[np.ndarray], bytes]) -> list[bytes]:
    """The block's tiles, row by row; empty where it has ended."""
    corners = [(TILE * row, TILE * column) for row in range(SIDE) for column in range(SIDE)]
    parts = [block[y : y + TILE, x : x + TILE] for y, x in corners]
    return [write(part) if part.size else b"" for part in parts]


_SWAPPED = 5
"""EXIF orientations from here on swap width and height."""


def _stored_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where a box of the upright picture lies in one that is stored with `size`, by its EXIF orientation."""
    x0, y0, x1, y1 = box
    if orientation in range(_SWAPPED, 9):
        x0, y0, x1, y1 = y0, x0, y1, x1
    if orientation in (2, 3, 7, 8):
        x0, x1 = size[0] - x1, size[0] - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = size[1] - y1, size[1] - y0
    return x0, y0, x1, y1
