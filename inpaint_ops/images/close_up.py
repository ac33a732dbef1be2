"""The square around a mask, small: what networks that score a picture are shown of it."""

from __future__ import annotations

import cv2
import numpy as np

from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.placing import resize
from inpaint_ops.images.reading import to_rgb

MARGIN = 1 / 8
"""Of the longer side of the mask's box: how much of its surroundings is shown on either side."""

_LEAST = 32
"""Pixels a side of what is shown at least, where the picture has them."""
_SPARE = 4
"""How many times more pixels a side are averaged than the square has, at most; of more, evenly spaced ones."""


def close_up(pixels: np.ndarray, weights: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) uint8 RGB of the square around all pixels that the mask weighs: alpha on white, 8 bits.

    The square is the mask's box with an eighth of its longer side around it. It is moved to lie in the picture; where
    the picture is not as wide or as high, its own mirror image goes on. It needs memory for some 16 `side` squared
    pixels, however large the picture is.

    Args:
        pixels: (H, W[, C]) uint8 or uint16, as `composite` gives them.
        weights: (H, W) uint8 of the mask, not all 0.
        side: pixels.
    """
    height, width = weights.shape
    x0, y0, x1, y1 = mask_bounds(weights)
    length = max(_LEAST, round((1 + 2 * MARGIN) * max(x1 - x0, y1 - y0)))
    columns, rows = _stretch(x0, x1, length, width), _stretch(y0, y1, length, height)
    step = max(1, length // (_SPARE * side))
    shown = to_rgb(pixels[rows.start : rows.stop : step, columns.start : columns.stop : step])
    size = tuple(max(1, round(side * (one.stop - one.start) / length)) for one in (columns, rows))
    small = resize(shown, (size[0], size[1]))
    right, below = side - size[0], side - size[1]
    return np.asarray(
        cv2.copyMakeBorder(small, below // 2, below - below // 2, right // 2, right - right // 2, cv2.BORDER_REFLECT)
    )


def _stretch(start: int, end: int, length: int, whole: int) -> range:
    """So many of `whole` pixels around those from `start` to `end`; all where there are no more."""
    if length >= whole:
        return range(whole)
    first = min(max(0, (start + end - length) // 2), whole - length)
    return range(first, first + length)
