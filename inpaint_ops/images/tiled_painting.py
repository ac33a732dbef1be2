"""A mask larger than the model's canvas, worked in overlapping tiles: each sees what the ones before have painted."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from inpaint_ops.images.compositing import lay
from inpaint_ops.images.masks import counted_from, mask_bounds
from inpaint_ops.images.measures import RING
from inpaint_ops.images.placing import Box, Placement, canvas_for, on_canvas, place, resize, working_sizes
from inpaint_ops.images.reading import Source

MOST_TILES = 64
"""Tiles of one mask. Where there would be more, each shows a larger part of the source, at less detail."""

_EIGHTHS = 3
"""Eighths of a tile's side that it shares with its neighbour. What the neighbour painted at its very end, where it saw
nothing beyond, is painted anew; over the next eighth the two fade into each other; the last one stays, and is what the
later tile goes on from. An eighth of the model's native size around the mask is seen as well."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """The tiles of a mask.

    Attributes:
        placements: what the model sees of the source, tile by tile, in the order in which they are painted: row by row
            from the top left. All are of one size, on canvases of one size. Each has a masked pixel that none before
            it has; together they have all.
        bounds: (x0, y0, x1, y1) of the mask.
        reduced: how many source pixels become one of the canvas, each way; 1 or less: full detail.
        wanted: how many tiles full detail would have taken.
    """

    placements: tuple[Placement, ...]
    bounds: Box
    reduced: float
    wanted: int


def find_tiles(mask: np.ndarray, *, native: int) -> Tiling | None:
    """Lay tiles over a mask; None where one canvas, as `crop: auto` chooses it, shows all of it at full detail.

    Args:
        mask: (H, W) uint8 weights of `decode_mask`, not all 0.
        native: the model's native size: the side of a tile in source pixels, where the source is as large.
    """
    size = mask.shape[1], mask.shape[0]
    whole = place(size, mask, native=native, crop="auto")
    if whole.box_size[0] <= whole.inner_size[0] and whole.box_size[1] <= whole.inner_size[1]:
        return None
    bounds, scale = mask_bounds(mask), 1.0
    wanted = len(boxes := _boxes(mask, bounds, native, scale))
    while len(boxes) > MOST_TILES:
        scale *= max(1.02, (len(boxes) / MOST_TILES) ** 0.5)
        boxes = _boxes(mask, bounds, native, scale)
    sizes = working_sizes(native)
    placements = tuple(canvas_for(box, sizes) for box in boxes)
    first = placements[0]
    reduced = max(first.box_size[axis] / first.inner_size[axis] for axis in (0, 1))
    return Tiling(placements, bounds, reduced, wanted)


def _boxes(mask: np.ndarray, bounds: Box, native: int, scale: float) -> list[Box]:
    across, down = (
        _spans(bounds[axis], bounds[axis + 2], mask.shape[1 - axis], round(native * scale), native // 8)
        for axis in (0, 1)
    )
    done = np.zeros((bounds[3] - bounds[1], bounds[2] - bounds[0]), np.bool_)
    boxes = []
    for y0, y1 in down:
        for x0, x1 in across:
            here, there = _common((x0, y0, x1, y1), bounds)
            if (mask[y0:y1, x0:x1][here] > 0)[~done[there]].any():
                boxes.append((x0, y0, x1, y1))
                done[there] = True
    return boxes


def _spans(first: int, last: int, length: int, side: int, margin: int) -> list[tuple[int, int]]:
    """Spans of one length that cover `first` to `last` and a margin, as far as there is one, evenly spread."""
    low, high = max(0, first - margin), min(length, last + margin)
    side = min(side, length)
    if high - low <= side:
        start = min(max(0, (low + high - side) // 2), length - side)
        return [(start, start + side)]
    step = side - _EIGHTHS * side // 8
    count = 1 + -(-(high - low - side) // step)
    starts = [low + round(number * (high - low - side) / (count - 1)) for number in range(count)]
    return [(start, start + side) for start in starts]


@dataclass(slots=True, eq=False)
class TilePainting:
    """The patch of a tiled mask, while it grows: `see` a tile, have it painted, `add` it; then the next one."""

    source: Source
    mask: np.ndarray
    """(H, W) uint8 weights, all of the mask."""
    tiling: Tiling
    patch: np.ndarray = field(init=False)
    """(h, w, 3) uint8 at the source's size, on `box`: what has been painted; elsewhere what the source shows."""
    box: Box = field(init=False)
    """(x0, y0, x1, y1): the mask's bounds and a ring, since what joins a patch looks a little beyond the mask."""
    _done: np.ndarray = field(init=False)
    """(h, w) uint8 on `box`: 255 where a tile was added."""

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.tiling.bounds
        self.box = (
            max(0, x0 - RING),
            max(0, y0 - RING),
            min(self.source.width, x1 + RING),
            min(self.source.height, y1 + RING),
        )
        x0, y0, x1, y1 = self.box
        self.patch = self.source.rgb[y0:y1, x0:x1].copy()
        self._done = np.zeros((y1 - y0, x1 - x0), np.uint8)

    @property
    def placement(self) -> Placement:
        """Where `patch` lies, as a canvas of its own size."""
        size = self.box[2] - self.box[0], self.box[3] - self.box[1]
        return Placement(self.box, size, (0, 0, *size))

    def see(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What the model gets of a tile: see `to_working`. What earlier tiles have painted is seen as it will look.

        Masked is what no earlier tile has painted, and what fades into it. That may be nothing on the canvas, where all
        of it weighs far less than the rest of the mask: the tile is not painted then, and keeps what the source shows.
        """
        placement = self.tiling.placements[number]
        x0, y0, x1, y1 = placement.box
        rgb = self._view(placement.box)
        own = np.where(self._share(placement.box) > 0, self.mask[y0:y1, x0:x1], 0)
        return on_canvas(rgb, own, placement, counted_from(self.mask))

    def add(self, number: int, painted: np.ndarray | None) -> None:
        """Put a tile into the patch: (h, w, 3) uint8, its whole canvas as it was painted; None: it was not painted."""
        placement = self.tiling.placements[number]
        here, there = _common(placement.box, self.box)
        if painted is not None:
            left, top, right, bottom = placement.inner
            tile = resize(np.ascontiguousarray(painted[top:bottom, left:right]), placement.box_size)
            lay(self.patch[there], tile[here], self._share(placement.box)[here], alpha="keep")
        self._done[there] = 255

    def _view(self, box: Box) -> np.ndarray:
        """The box of the source, with what was painted of it: (h, w, 3) uint8."""
        x0, y0, x1, y1 = box
        rgb = self.source.rgb[y0:y1, x0:x1].copy()
        here, there = _common(box, self.box)
        weights = cv2.bitwise_and(self.mask[y0:y1, x0:x1][here], self._done[there])
        lay(rgb[here], self.patch[there], weights, alpha="keep")
        return rgb

    def _share(self, box: Box) -> np.ndarray:
        """(h, w) uint8 on the box: 255 where nothing was painted; over what was, falling to 0 away from what is masked
        and was not.
        """
        x0, y0, x1, y1 = box
        here, there = _common(box, self.box)
        done = np.zeros((y1 - y0, x1 - x0), np.uint8)
        done[here] = self._done[there]
        if not done.any():
            return np.full_like(done, 255)
        left = cv2.bitwise_and(cv2.inRange(self.mask[y0:y1, x0:x1], 1, 255), cv2.bitwise_not(done))
        if not left.any():
            return cv2.bitwise_not(done)
        away = cv2.distanceTransform(cv2.bitwise_not(left), cv2.DIST_L2, 3)
        fading = cv2.convertScaleAbs(np.clip(2 - away / max(1.0, min(done.shape) / 8), 0, 1), alpha=255)
        return cv2.bitwise_or(cv2.bitwise_not(done), fading)


def _common(box: Box, bounds: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What box and bounds have in common, as (rows, columns) of each."""
    x0, y0, x1, y1 = (max(box[0], bounds[0]), max(box[1], bounds[1]), min(box[2], bounds[2]), min(box[3], bounds[3]))
    return (
        (slice(y0 - box[1], y1 - box[1]), slice(x0 - box[0], x1 - box[0])),
        (slice(y0 - bounds[1], y1 - bounds[1]), slice(x0 - bounds[0], x1 - bounds[0])),
    )
