"""Where a source lands on the model's canvas: few canvas sizes, the source's own aspect, no masked pixel lost.

The canvas is one of SDXL's training buckets, so that few shapes exist, batches fill and compiled graphs are reused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from inpaint_ops.errors import MaskError
from inpaint_ops.images.masks import counted_from, mask_bounds
from inpaint_ops.images.reading import Source

Size = tuple[int, int]
Box = tuple[int, int, int, int]
Crop = Literal["none", "auto"] | int

LATENT_CELL = 8
"""Pixels of the canvas to one latent, each way: the factor of SDXL's autoencoder."""

_TALL_BUCKETS: tuple[Size, ...] = (
    (512, 2048), (512, 1984), (512, 1920), (512, 1856), (576, 1792), (576, 1728), (576, 1664), (640, 1600), (640, 1536),
    (704, 1472), (704, 1408), (704, 1344), (768, 1344), (768, 1280), (832, 1216), (832, 1152), (896, 1152), (896, 1088),
    (960, 1088), (960, 1024),
)  # fmt: skip
SDXL_BUCKETS: tuple[Size, ...] = (
    *_TALL_BUCKETS,
    (1024, 1024),
    *((height, width) for width, height in reversed(_TALL_BUCKETS) if (width, height) != (704, 1344)),
)
"""(width, height) of the multi-aspect training sizes: appendix I of the SDXL paper (arXiv:2307.01952), 40 rows.

They run from 1:4 to 4:1; the paper has 704x1344 one way round only.
"""
_SDXL_NATIVE = 1024


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a part of the source lands on the canvas.

    Attributes:
        box: (x0, y0, x1, y1) of the part of the source that is shown to the model, in source pixels.
        working: (width, height) of the canvas, multiples of 8.
        inner: (x0, y0, x1, y1) on the canvas where the box lands; the rest is padding, which is never masked.
    """

    box: Box
    working: Size
    inner: Box

    @property
    def box_size(self) -> Size:
        """(width, height) of the box."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    @property
    def inner_size(self) -> Size:
        """(width, height) of the box on the canvas."""
        return self.inner[2] - self.inner[0], self.inner[3] - self.inner[1]


@lru_cache(maxsize=64)
def working_sizes(native: int, multiple: int = LATENT_CELL) -> tuple[Size, ...]:
    """The canvas sizes of a model: SDXL's training buckets, scaled to the model's native size.

    Args:
        native: the side of the square that the model was trained on; 1024 for SDXL, where these are the paper's own
            sizes, all of them multiples of 64.
        multiple: what each side is rounded to, itself a multiple of 8.

    Returns:
        (width, height) from the tallest to the widest, each once, from 1:4 to 4:1 as the model was trained.

    Raises ValueError for a native size below four times `multiple`, whose buckets would all be the same.
    """
    if multiple < LATENT_CELL or multiple % LATENT_CELL:
        raise ValueError(f"multiple must be a multiple of {LATENT_CELL}, not {multiple}")
    if native < 4 * multiple:
        raise ValueError(f"native must be at least {4 * multiple}, not {native}")

    def scaled(side: int) -> int:
        return max(multiple, (2 * side * native + _SDXL_NATIVE * multiple) // (2 * _SDXL_NATIVE * multiple) * multiple)

    sizes = {(scaled(width), scaled(height)) for width, height in SDXL_BUCKETS}
    return tuple(
        sorted((size for size in sizes if max(size) <= 4 * min(size)), key=lambda size: (size[0] / size[1], size))
    )


def working_size(size: Size, *, native: int) -> Size:
    """(width, height) of the canvas for the whole frame of an upright source of `size`: see `place`."""
    return _nearest(working_sizes(native), *size)


def place(size: Size, mask: np.ndarray, *, native: int, crop: Crop = "none") -> Placement:
    """Choose what the model sees of a source, and where on which canvas.

    Args:
        size: (width, height) of the upright source; any size from 1x1 up.
        mask: (H, W) uint8 weights of `decode_mask`.
        native: the model's native size, see `working_sizes`.
        crop: "none" shows the whole frame. A number shows the surroundings of the mask: its bounding box with this
            margin in source pixels, grown to the canvas's aspect and to at least the canvas's size where the source has
            the pixels, so that nothing is enlarged needlessly. "auto" crops, with a margin of half the box's longer
            side and at least an eighth of `native`, when the mask's box covers less than a quarter of the frame and the
            source has more pixels than the canvas; it shows the whole frame otherwise.

    The canvas is the bucket whose aspect is nearest, which is the one with the least padding.

    Raises MaskError when the mask masks nothing; ValueError when it has another size, or the margin is negative.
    """
    width, height = size
    if mask.shape != (height, width):
        raise ValueError(f"the mask is {mask.shape[1]}x{mask.shape[0]} and the source {width}x{height}")
    bounds = mask_bounds(mask)
    if bounds == (0, 0, 0, 0):
        raise MaskError("the mask masks nothing: paint what to replace in white")
    sizes = working_sizes(native)
    margin = _margin(crop, size, bounds, native, sizes)
    box = (0, 0, width, height) if margin is None else _surroundings(bounds, margin, size, native, sizes)
    return canvas_for(box, sizes)


def canvas_for(box: Box, sizes: tuple[Size, ...]) -> Placement:
    """The canvas, of these (width, height), whose aspect is nearest to a box of the source, and where on it the box
    lands.
    """
    box_width, box_height = box[2] - box[0], box[3] - box[1]
    working = _nearest(sizes, box_width, box_height)
    scale = min(working[0] / box_width, working[1] / box_height)
    inner_width = min(working[0], max(1, round(box_width * scale)))
    inner_height = min(working[1], max(1, round(box_height * scale)))
    # Centred, on a whole latent cell, so that padding shares no cell with the picture on that side.
    x = (working[0] - inner_width) // 2 // LATENT_CELL * LATENT_CELL
    y = (working[1] - inner_height) // 2 // LATENT_CELL * LATENT_CELL
    return Placement(box, working, (x, y, x + inner_width, y + inner_height))


def to_working(source: Source, mask: np.ndarray, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """What the model gets: the box of the source on its canvas, and the mask on the latent grid.

    Args:
        source: the source, of whose `rgb` the box is taken.
        mask: (H, W) uint8 weights of `decode_mask`.
        placement: of `place`, for the same source and mask.

    Returns:
        rgb, (h, w, 3) uint8 at the working size: reduced by area or enlarged by cubic interpolation; the padding
        repeats the picture's edge.
        mask, (h, w) uint8 of 0 and 255, constant on every 8x8 cell. A source pixel counts from weight 128 on, or from 1
        where no pixel reaches 128; a cell is masked as soon as one counted pixel touches it, so that a line of one
        pixel survives the reduction to the latent grid, which picks one pixel of each cell (nearest). Padding is not
        masked, except where it shares a cell with the picture.
    """
    if mask.shape != source.rgb.shape[:2]:
        raise ValueError("the mask has another size than the source")
    x0, y0, x1, y1 = placement.box
    return on_canvas(source.rgb[y0:y1, x0:x1], mask[y0:y1, x0:x1], placement, counted_from(mask))


def on_canvas(
    rgb: np.ndarray, weights: np.ndarray, placement: Placement, counted: int
) -> tuple[np.ndarray, np.ndarray]:
    """`to_working` of the placement's box alone: its colours, its weights, and the weight from which a pixel counts."""
    left, top, right, bottom = placement.inner
    width, height = placement.working
    picture = resize(rgb, placement.inner_size)
    canvas = cv2.copyMakeBorder(picture, top, height - bottom, left, width - right, cv2.BORDER_REPLICATE)
    pooled = _pool(_pool(weights, top, bottom, height).T, left, right, width).T
    cells = np.where(pooled >= counted, np.uint8(255), np.uint8(0))
    return canvas, cells.repeat(LATENT_CELL, axis=0).repeat(LATENT_CELL, axis=1)


def resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W[, 3]) uint8 or uint16 pixels to (width, height): by area down, cubic up; nothing when it fits."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    smaller = size[0] * size[1] < width * height
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def _pool(weights: np.ndarray, start: int, end: int, length: int) -> np.ndarray:
    """Max-pool the rows of an (n, m) array, drawn from `start` to `end` on a canvas, into its `length` / 8 latent rows.

    A row touches a cell when any part of it does; the arithmetic is in whole numbers, so no row falls between cells.
    """
    rows, drawn = len(weights), end - start
    out = np.zeros((length // LATENT_CELL, weights.shape[1]), np.uint8)
    for cell in range(len(out)):
        first = max(0, (cell * LATENT_CELL - start) * rows // drawn)
        last = min(rows, -(-((cell + 1) * LATENT_CELL - start) * rows // drawn))
        if first < last:
            out[cell] = weights[first:last].max(axis=0)
    return out


def _nearest(sizes: tuple[Size, ...], width: int, height: int) -> Size:
    """The bucket of which a picture of this aspect fills the largest part."""

    def filled(size: Size) -> float:
        ratio = size[0] * height / (size[1] * width)
        return min(ratio, 1 / ratio)

    return max(sizes, key=lambda size: (filled(size), size[0] * size[1]))


def _margin(crop: Crop, size: Size, bounds: Box, native: int, sizes: tuple[Size, ...]) -> int | None:
    """The margin around the mask's box; None for the whole frame."""
    if isinstance(crop, int):
        if crop < 0:
            raise ValueError(f"crop must be none, auto or a margin in pixels, not {crop}")
        return crop
    if crop == "none":
        return None
    width, height = bounds[2] - bounds[0], bounds[3] - bounds[1]
    frame, canvas = size[0] * size[1], _nearest(sizes, *size)
    if 4 * width * height >= frame or frame <= canvas[0] * canvas[1]:
        return None
    return max(native // 8, max(width, height) // 2)


def _surroundings(bounds: Box, margin: int, size: Size, native: int, sizes: tuple[Size, ...]) -> Box:
    """The mask's box with its margin, grown to a bucket's aspect and size as far as the frame reaches."""
    low = (max(0, bounds[0] - margin), max(0, bounds[1] - margin))
    high = (min(size[0], bounds[2] + margin), min(size[1], bounds[3] + margin))
    least = [min(size[axis], max(high[axis] - low[axis], native)) for axis in (0, 1)]
    bucket = _nearest(sizes, *least)
    scale = max(1.0, least[0] / bucket[0], least[1] / bucket[1])
    starts, ends = [], []
    for axis in (0, 1):
        side = min(size[axis], max(least[axis], round(bucket[axis] * scale)))
        start = min(max(0, (low[axis] + high[axis] - side) // 2), size[axis] - side)
        starts.append(start)
        ends.append(start + side)
    return starts[0], starts[1], ends[0], ends[1]
