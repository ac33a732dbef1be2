"""A mask of several parts that lie far from each other, taken apart: each is then painted by itself, at full detail."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.placing import Box, Placement, Size, place

MOST_REGIONS = 16
"""Regions of one mask; nearer ones are painted together where there would be more."""

_CELLS = 1 << 20
"""Of a larger mask, squares of pixels are looked at instead of pixels: what touches one square is one part."""
_MOST_PARTS = 64
"""Parts that are compared with each other; where there are more, those near to each other count as one."""
_AS_GOOD = 1.05
"""Two parts are painted together where that costs no more than this times their detail."""


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The regions of a mask: each masked pixel is in one of them.

    Attributes:
        boxes: (x0, y0, x1, y1) of each one's pixels, from top to bottom.
        groups: (rows, columns) uint8: the region of each square of pixels, from 1; 0 is not masked.
        square: pixels per side of a square.
    """

    boxes: tuple[Box, ...]
    groups: np.ndarray
    square: int

    def weights(self, mask: np.ndarray, region: int) -> np.ndarray:
        """(H, W) uint8: the mask's weights in one region, counted from 0, and 0 elsewhere."""
        x0, y0, x1, y1 = self.boxes[region]
        rows = np.arange(y0, y1)[:, None] // self.square
        columns = np.arange(x0, x1)[None] // self.square
        out = np.zeros_like(mask)
        part = slice(y0, y1), slice(x0, x1)
        out[part] = np.where(self.groups[rows, columns] == region + 1, mask[part], 0)
        return out

    def place(self, mask: np.ndarray, region: int, *, native: int) -> Placement:
        """What the model sees of one region: its surroundings, as `crop: auto` shows them of a small mask."""
        size = mask.shape[1], mask.shape[0]
        return place(size, self.weights(mask, region), native=native, crop=_margin(self.boxes[region], native))


def find_regions(mask: np.ndarray, *, native: int) -> Regions:
    """Take a mask apart.

    Parts that touch, or that the model can see together at the same detail, are one region: their common box with its
    margin is no larger than the model's native size, or hardly larger than that of the larger part alone.

    Args:
        mask: (H, W) uint8 weights of `decode_mask`, not all 0.
        native: the model's native size, see `working_sizes`.
    """
    square = max(1, -(-max(mask.shape) // int(_CELLS**0.5)))
    cells = _pooled(mask, square)
    reach, near = 1, cells
    while True:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=8)
        if count - 1 <= _MOST_PARTS:
            break
        reach *= 2
        near = cv2.dilate(cells, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    parts: list[tuple[set[int], Box]] = []
    for label in range(1, count):
        x, y, width, height = (int(value) for value in stats[label][:4])
        parts.append(({label}, (x * square, y * square, (x + width) * square, (y + height) * square)))
    _merge(parts, native)
    parts.sort(key=lambda part: (part[1][1], part[1][0]))
    group_of = np.zeros(count, np.uint8)
    for number, (members, _) in enumerate(parts, 1):
        group_of[list(members)] = number
    groups = np.where(cells > 0, group_of[labels], 0).astype(np.uint8)
    return Regions(tuple(_box(mask, groups, number, square) for number in range(1, len(parts) + 1)), groups, square)


def _merge(parts: list[tuple[set[int], Box]], native: int) -> None:
    """Put parts together, those first that fit the smallest box, until each is better off by itself."""
    while len(parts) > 1:
        pairs = ((one, other) for other in range(len(parts)) for one in range(other))
        scale, one, other = min((_scale(_union(parts[a][1], parts[b][1]), native), a, b) for a, b in pairs)
        alone = max(_scale(parts[one][1], native), _scale(parts[other][1], native))
        if scale > _AS_GOOD * alone and len(parts) <= MOST_REGIONS:
            return
        members, box = parts.pop(other)
        parts[one] = parts[one][0] | members, _union(parts[one][1], box)


def _margin(box: Box, native: int) -> int:
    return max(native // 8, max(box[2] - box[0], box[3] - box[1]) // 2)


def _scale(box: Box, native: int) -> float:
    """How much the box with its margin is reduced to fit the model; 1 where it is not."""
    return max(1.0, (max(box[2] - box[0], box[3] - box[1]) + 2 * _margin(box, native)) / native)


def _union(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _pooled(mask: np.ndarray, square: int) -> np.ndarray:
    """(rows, columns) uint8: 1 for each square with a masked pixel."""
    if square == 1:
        return cv2.inRange(mask, 1, 255) // 255
    rows = np.maximum.reduceat(mask, np.arange(0, mask.shape[0], square), axis=0)
    return (np.maximum.reduceat(rows, np.arange(0, mask.shape[1], square), axis=1) > 0).astype(np.uint8)


def _box(mask: np.ndarray, groups: np.ndarray, number: int, square: int) -> Box:
    x0, y0, x1, y1 = mask_bounds((groups == number).astype(np.uint8))
    left, top = x0 * square, y0 * square
    part = mask[top : y1 * square, left : x1 * square]
    inside = (groups[y0:y1, x0:x1] == number).repeat(square, 0).repeat(square, 1)[: part.shape[0], : part.shape[1]]
    a, b, c, d = mask_bounds(np.where(inside, part, 0))
    return left + a, top + b, left + c, top + d


def fits_the_canvas(size: Size, placement: Placement) -> bool:
    """Whether the model sees the whole frame at full detail already, so that no crop gains anything."""
    return size[0] * size[1] <= placement.working[0] * placement.working[1]
