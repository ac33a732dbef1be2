"""What painting did to the picture, as a viewer sees it: so that no row is done in name only."""

from __future__ import annotations

import cv2
import numpy as np

from inpaint_ops.errors import UnchangedError
from inpaint_ops.images.masks import mask_bounds

_STRIPE = 1 << 18
"""Pixels measured at a time: bounds the memory."""
_FEW = 16
"""Of fewer masked pixels the largest change counts: their mean says little."""


def visible_change(before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> float:
    """How much the masked part changed, in 8-bit levels, 0 to 255.

    Of a pixel the channel that changed most counts, colour as far as its alpha shows it, and alpha itself. The mean is
    over the pixels with at least half of the mask's highest weight, so that soft edges do not thin it out; of fewer
    than 16 such pixels the largest change counts.

    Args:
        before: (H, W[, C]) uint8 or uint16, the source.
        after: of the same shape and dtype, the result.
        weights: (H, W) uint8 of the mask, not all 0.
    """
    x0, y0, x1, y1 = mask_bounds(weights)
    least = (int(weights.max()) + 1) // 2
    total, count, largest = 0.0, 0, 0.0
    rows = max(1, _STRIPE // (x1 - x0))
    for y in range(y0, y1, rows):
        part = slice(y, min(y + rows, y1)), slice(x0, x1)
        chosen = cv2.inRange(weights[part], least, 255)
        if number := cv2.countNonZero(chosen):
            change = _difference(before[part], after[part])
            total += cv2.sumElems(cv2.bitwise_and(change, change, mask=chosen))[0]
            count, largest = count + number, max(largest, cv2.minMaxLoc(change, mask=chosen)[1])
    level = 257 if before.dtype == np.uint16 and not _has_alpha(before) else 1
    return (largest if count < _FEW else total / count) / level


def mask_area(weights: np.ndarray) -> tuple[tuple[int, int, int, int], float]:
    """The bounding box (x0, y0, x1, y1) of the pixels that a mask weighs, and their share of all, above 0.

    Args:
        weights: (H, W) uint8 of the mask, not all 0.
    """
    return mask_bounds(weights), cv2.countNonZero(weights) / weights.size


def check_changed(change: float, threshold: float) -> None:
    """Raise UnchangedError where a row's `visible_change` is below the threshold, in levels; 0 lets everything pass."""
    if change < threshold:
        raise UnchangedError(
            f"what was painted differs from the source by {change:.2f} of 255 levels in the masked part, below "
            f"{threshold:g} (INPAINT_UNCHANGED_THRESHOLD): make the mask whiter, raise strength, or change the prompt",
            change=change,
        )


def alpha_conversions(before: np.ndarray, after: np.ndarray) -> tuple[str, ...]:
    """A sentence where painting made transparent pixels less so."""
    if not _has_alpha(before) or np.array_equal(before[..., -1], after[..., -1]):
        return ()
    return ("the source was transparent where it was painted: alpha rose to the mask's weight there",)


def _has_alpha(pixels: np.ndarray) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H, W): of each pixel the channel that differs most; without alpha in the pixels' own whole numbers."""
    if _has_alpha(before):
        return np.asarray(np.abs(_shown(before) - _shown(after)).max(axis=2))
    difference = cv2.absdiff(before, after)
    if difference.ndim == 2:
        return difference
    first, *others = cv2.split(difference)
    for other in others:
        first = cv2.max(first, other)
    return first


def _shown(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) float32 in 8-bit levels of pixels with alpha: colour times alpha, and alpha."""
    levels = pixels.astype(np.float32)
    if pixels.dtype == np.uint16:
        levels /= 257
    levels[..., :-1] *= levels[..., -1:] / 255
    return levels
