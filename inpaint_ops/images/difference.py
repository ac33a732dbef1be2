"""What a result changed of its source: every pixel is compared as it is stored, and shown brighter than it is.

Call it in a process that may die (`inpaint_ops.previews`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from io import BytesIO

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from inpaint_ops.errors import ImageError
from inpaint_ops.images.png import read_header
from inpaint_ops.images.preview import load_upright
from inpaint_ops.images.reading import opened, read_pixels, to_rgb
from inpaint_ops.images.tiles import Block, Box, cut

_BAND = 256
"""Rows that are compared at once, so that only a few rows are in memory twice."""

_SHOWN = np.round(255 * np.log1p(np.arange(256)) / np.log(256)).astype(np.uint8)
"""How bright a difference is shown, by its 8-bit levels: 0 is black, 1 is 32, 16 is 130, 255 is white."""


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """What changed.

    Attributes:
        levels: (H, W) uint8: by how many 8-bit levels the channel that changed most did, rounded up: 0 says that it is
            the source's own.
        box: what was painted, in pixels of the picture; None where that is not known.
    """

    levels: np.ndarray
    box: Box | None

    @property
    def changed(self) -> int:
        """Pixels that are not the source's own."""
        return int(np.count_nonzero(self.levels))

    @property
    def outside(self) -> int | None:
        """Those that lie outside of what was painted; None where that is not known."""
        if self.box is None:
            return None
        x0, y0, x1, y1 = self.box
        return self.changed - int(np.count_nonzero(self.levels[y0:y1, x0:x1]))

    def picture(self, longest: int) -> bytes:
        """A PNG of `longest` pixels on its longer side, at most. The largest difference of the pixels behind one is
        shown, so that no changed pixel is lost.
        """
        step = max(1, -(-max(self.levels.shape) // longest))
        return _png(_largest(self.levels, step), self._foreign((0, 0), self.levels.shape, step))

    def tiles(self, block: Block) -> list[bytes]:
        """A block's tiles as PNG files, row by row. Raises ImageError where there is no such block."""
        (x0, y0, x1, y1), _ = block.boxes((self.levels.shape[1], self.levels.shape[0]))
        step = 2**block.level
        part = _largest(self.levels[y0:y1, x0:x1], step)
        foreign = self._foreign((x0, y0), (y1 - y0, x1 - x0), step)
        return cut(np.dstack([part, foreign * np.uint8(255)]), lambda tile: _png(tile[..., 0], tile[..., 1] > 0))

    def _foreign(self, origin: tuple[int, int], shape: tuple[int, ...], step: int) -> np.ndarray:
        """Which pixels of a part that is shown lie outside of what was painted: (h, w) bool."""
        height, width = -(-shape[0] // step), -(-shape[1] // step)
        found = np.zeros((height, width), bool)
        if self.box is None:
            return found
        found[:] = True
        x0, y0, x1, y1 = (at - origin[number % 2] for number, at in enumerate(self.box))
        if x1 > 0 and y1 > 0:
            found[max(0, y0) // step : -(-y1 // step), max(0, x0) // step : -(-x1 // step)] = False
        return found


def difference(source: bytes, result: bytes, *, max_pixels: int, box: Box | None = None) -> Difference:
    """Compare two image files, both decoded and turned upright as for painting.

    Where one has an alpha channel or 16 bits that the other has not, both are compared as they are seen: on white, in
    8 bits. Raises ImageError, also for pictures of different sizes; MemoryError.
    """
    with _rows(source, "source", max_pixels) as (shape, rows):
        first = [rows(top) for top in range(0, shape[0], _BAND)]
        del rows  # it has the decoder's pixels
    with _rows(result, "result", max_pixels) as (other, rows):
        levels = np.empty(other, np.uint8)
        if other == shape:
            for number in range(len(first)):
                top = _BAND * number
                levels[top : top + _BAND] = _levels(first[number], rows(top))
    if other != shape:
        sizes = [f"{width}x{height}" for height, width in (shape, other)]
        raise ImageError(f"the source is {sizes[0]} and the result {sizes[1]}, so no pixel has its match")
    return Difference(levels, box)


@contextmanager
def _rows(data: bytes, what: str, max_pixels: int) -> Iterator[tuple[tuple[int, int], Callable[[int], np.ndarray]]]:
    """A decoded file: its (H, W), and its pixels from some row on, `_BAND` rows or what is left.

    They are what `read_pixels` gives. Most files are left with their decoder, since an array of all pixels would be one
    more copy of them, and making it yet another.
    """
    with opened(data, what=what, max_pixels=max_pixels, frames="first") as (image, _):
        if _is_plain(image, data) and load_upright(image, data, max_pixels)[0] not in range(2, 9):
            width, height = image.size
            yield (height, width), lambda top: np.asarray(image.crop((0, top, width, min(height, top + _BAND))))
            return
    array = read_pixels(data, what=what, max_pixels=max_pixels, frames="first").array
    yield (array.shape[0], array.shape[1]), lambda top: array[top : top + _BAND]


def _is_plain(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether Pillow's pixels are taken as they are."""
    if image.mode not in ("L", "LA", "RGB", "RGBA") or isinstance(image, TiffImageFile) or "transparency" in image.info:
        return False
    return not isinstance(image, PngImageFile) or read_header(data).bit_depth == 8


def _levels(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    if first.shape != second.shape or first.dtype != second.dtype:
        first, second = to_rgb(first), to_rgb(second)
    most: np.ndarray = reduce(cv2.max, cv2.split(cv2.absdiff(first, second)))
    return most if most.dtype == np.uint8 else -(-most.astype(np.int32) // 257)


def _largest(levels: np.ndarray, step: int) -> np.ndarray:
    """The largest of each `step` by `step` levels, fewer at the right and the bottom."""
    if step == 1:
        return levels
    rows = np.maximum.reduceat(levels, np.arange(0, levels.shape[0], step), axis=0)
    return np.maximum.reduceat(rows, np.arange(0, levels.shape[1], step), axis=1)


def _png(levels: np.ndarray, foreign: np.ndarray) -> bytes:
    """Gray on black; red where nothing was painted."""
    shown = _SHOWN[levels]
    rest = np.where(foreign, 0, shown).astype(np.uint8)
    sink = BytesIO()
    Image.fromarray(np.dstack([shown, rest, rest])).save(sink, "PNG", compress_level=3)
    return sink.getvalue()
