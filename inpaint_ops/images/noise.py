"""How much noise a picture has, as a standard deviation: the grain of a photo, where texture does not hide it."""

from __future__ import annotations

import cv2
import numpy as np

BINS = 256
FEWEST = 16
"""A figure of fewer pixels says nothing."""

_UNITS = 6.0
"""Steps of a histogram to one 8-bit level: the kernel's coefficients have a sum of squares of 36."""
_SHARE, _QUANTILE = 0.25, 0.318639
"""Of the absolute values of a normal distribution of standard deviation 1, a quarter lies below 0.3186."""
_KERNEL = np.array([1, -2, 1], np.float32)
"""Along both axes."""


def noise_values(luma: np.ndarray) -> np.ndarray:
    """What remains of an (H, W) uint8 picture when what is smooth is taken away: (H, W) uint8, in sixths of a level.

    The filter is Immerkaer's (Fast Noise Variance Estimation, 1996): it answers neither to slopes nor to straight
    edges along the axes. Of white noise of standard deviation s its answer's is 6 s.
    """
    return cv2.convertScaleAbs(cv2.sepFilter2D(luma, cv2.CV_16S, _KERNEL, _KERNEL))


def noise_histogram(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """How often each of `noise_values` occurs under a mask of 0 and 255: (256,) float64. Histograms may be summed."""
    counted = cv2.calcHist([np.ascontiguousarray(values)], [0], np.ascontiguousarray(mask), [BINS], [0, BINS])
    return counted.reshape(-1).astype(np.float64)


def noise_of(histogram: np.ndarray, fewest: int = FEWEST) -> float | None:
    """The standard deviation of the noise, in 8-bit levels, 0 to 133; None of fewer than `fewest` values.

    It is estimated from the quarter of the values that is nearest to 0. In a picture with edges and texture that is
    the quiet part, so they count as noise only where they fill all of it.
    """
    below = np.cumsum(histogram)
    if below[-1] < fewest:
        return None
    target = _SHARE * below[-1]
    at = int(np.searchsorted(below, target))
    # Within a step, values are taken as evenly spread: step 0 reaches from 0 to 1/2, step k from k - 1/2 to k + 1/2.
    before = below[at - 1] if at else 0.0
    part = float((target - before) / histogram[at])
    value = part / 2 if at == 0 else at - 0.5 + part
    return value / _UNITS / _QUANTILE
