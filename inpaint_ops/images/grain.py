"""The noise of a patch brought up to that of its surroundings: what a model paints is smoother than a photo."""

from __future__ import annotations

import math

import cv2
import numpy as np

from inpaint_ops.images.noise import noise_histogram, noise_of, noise_values
from inpaint_ops.images.reading import to_8_bit

MOST_GRAIN = 8.0
"""8-bit levels: the standard deviation of what is added, at most."""

_ROWS = 64
"""Rows that share a sequence of random numbers: a row's grain does not depend on how many are made at once."""


def missing_grain(source: np.ndarray, patch: np.ndarray, ring: np.ndarray, inside: np.ndarray) -> float | None:
    """The standard deviation, in 8-bit levels, of the noise that the patch lacks of its ring's; 0 where it has as much.

    Args:
        source: (h, w, C) uint8 or uint16, colour alone.
        patch: of the same shape and dtype.
        ring: (h, w) uint8 of 0 and 255: where the source is measured.
        inside: (h, w) uint8 of 0 and 255: where the patch is measured.

    Returns None where one of them has too few pixels. Noises add as their squares do.
    """
    wanted, found = _noise(source, ring), _noise(patch, inside)
    if wanted is None or found is None:
        return None
    return min(MOST_GRAIN, math.sqrt(max(0.0, wanted**2 - found**2)))


def with_grain(patch: np.ndarray, deviation: float, seed: int) -> np.ndarray:
    """The patch with normal noise of this standard deviation in 8-bit levels, the same in each channel of a pixel.

    The same size, deviation and seed give the same noise.
    """
    top = np.iinfo(patch.dtype).max
    scale = deviation * (257 if patch.dtype == np.uint16 else 1)
    out = np.empty_like(patch)
    for number, first in enumerate(range(0, len(patch), _ROWS)):
        rows = patch[first : first + _ROWS]
        drawn = np.random.Generator(np.random.PCG64([seed, number])).standard_normal(rows.shape[:2], np.float32)
        out[first : first + _ROWS] = np.clip(np.rint(rows + scale * drawn[..., None]), 0, top)
    return out


def _noise(pixels: np.ndarray, mask: np.ndarray) -> float | None:
    core = cv2.erode(mask, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return noise_of(noise_histogram(noise_values(luma(pixels)), core))


def luma(pixels: np.ndarray) -> np.ndarray:
    """(h, w) uint8 of (h, w, 1 or 3) uint8 or uint16 (Rec. 601)."""
    eight = to_8_bit(pixels)
    if eight.shape[2] == 1:
        return np.ascontiguousarray(eight[..., 0])
    return cv2.cvtColor(np.ascontiguousarray(eight), cv2.COLOR_RGB2GRAY)
