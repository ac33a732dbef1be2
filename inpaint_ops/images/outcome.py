"""What painting did to the picture, as a viewer sees it: so that no row is done in name only."""

from __future__ import annotations

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
        chosen = weights[part] >= least
        if not chosen.any():
            continue
        change = np.abs(_shown(before[part][chosen]) - _shown(after[part][chosen])).max(axis=1)
        total, count, largest = total + float(change.sum()), count + len(change), max(largest, float(change.max()))
    return largest if count < _FEW else total / count


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
    if before.ndim == 2 or before.shape[2] not in (2, 4) or np.array_equal(before[..., -1], after[..., -1]):
        return ()
    return ("the source was transparent where it was painted: alpha rose to the mask's weight there",)


def _shown(pixels: np.ndarray) -> np.ndarray:
    """(N, C) float32 in 8-bit levels of (N[, C]) pixels: colour times alpha, and alpha."""
    levels = pixels.reshape(len(pixels), -1).astype(np.float32)
    if pixels.dtype == np.uint16:
        levels /= 257
    if levels.shape[1] in (2, 4):
        levels[:, :-1] *= levels[:, -1:] / 255
    return levels
