"""A patch sharpened to the detail of its surroundings: what a model painted and was enlarged is softer than a photo."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from inpaint_ops.images.noise import FEWEST

MOST_AMOUNT = 3.0
"""Times the patch's own fine detail that is added at most."""
MOST_CHANGE = 32.0
"""8-bit levels by which a value is changed at most: beyond it, edges get halos."""
_SIGMAS = 0.8, 4.0
"""Pixels of the blur whose difference is the fine detail: as many as the enlargement, within these."""
_SAMPLE = 1 << 19
"""Pixels that decide the amount, at most: evenly spaced stripes of a larger window."""
_ROWS = 64
_STRIPE = 1 << 20
_NEXT = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Sharpening:
    """What `sharpening` has found out.

    Attributes:
        amount: times the fine detail that is added; 0: the patch is as sharp as its ring.
        sigma: of the blur, in pixels.
        is_limited: whether more would be needed than `MOST_AMOUNT`.
    """

    amount: float
    sigma: float
    is_limited: bool

    def apply(self, patch: np.ndarray) -> np.ndarray:
        """The sharpened patch, (h, w, C) of the same dtype: each channel of a pixel is changed alike."""
        if not self.amount:
            return patch
        out, top, level = patch.copy(), np.iinfo(patch.dtype).max, _level(patch)
        rows = max(_ROWS, _STRIPE // patch.shape[1])
        for part, fine in _details(patch, self.sigma, [(y, y + rows) for y in range(0, len(patch), rows)]):
            change = np.clip(self.amount * fine, -MOST_CHANGE, MOST_CHANGE) * level
            out[part] = np.clip(np.rint(patch[part] + change[..., None]), 0, top)
        return out


def sharpening(
    source: np.ndarray, patch: np.ndarray, ring: np.ndarray, inside: np.ndarray, enlargement: float
) -> Sharpening | None:
    """How much to sharpen a patch, so that its mean gradient is that of the ring around the mask.

    Args:
        source: (h, w, C) uint8 or uint16, colour alone.
        patch: of the same shape and dtype.
        ring: (h, w) uint8 of 0 and 255: where the source is measured.
        inside: (h, w) uint8 of 0 and 255: where the patch is measured.
        enlargement: pixels of the source per pixel that the model painted.

    Returns None where one of them has too few pixels. Gradients are those of `Measures.sharpness_ratio`.
    """
    sigma = min(_SIGMAS[1], max(_SIGMAS[0], enlargement))
    spans = _sampled(patch.shape)
    wanted = _Gradients.of(source, ring, sigma, spans)
    found = _Gradients.of(patch, inside, sigma, spans)
    if wanted is None or found is None:
        return None
    target = wanted.mean(0.0)
    if found.mean(0.0) >= target:
        return Sharpening(0.0, sigma, is_limited=False)
    if found.mean(MOST_AMOUNT) <= target:
        return Sharpening(MOST_AMOUNT, sigma, is_limited=True)
    low, high = 0.0, MOST_AMOUNT
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if found.mean(middle) < target else (low, middle)
    return Sharpening(low, sigma, is_limited=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Gradients:
    """At measured pixels: the gradients of luma along both axes, and of its fine detail; float32, 8-bit levels."""

    whole: np.ndarray
    fine: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray, mask: np.ndarray, sigma: float, spans: list[tuple[int, int]]) -> _Gradients | None:
        whole: list[np.ndarray] = []
        fine: list[np.ndarray] = []
        for part, detail, luma in _parts(pixels, sigma, spans):
            chosen = cv2.erode(mask[part], _NEXT, borderType=cv2.BORDER_REPLICATE) > 0
            for values, into in ((luma, whole), (detail, fine)):
                slopes = [cv2.Sobel(values, cv2.CV_32F, *axes) for axes in ((1, 0), (0, 1))]
                into.append(np.stack([slope[chosen] for slope in slopes]))
        made = np.concatenate(whole, axis=1), np.concatenate(fine, axis=1)
        return cls(*made) if made[0].shape[1] >= FEWEST else None

    def mean(self, amount: float) -> float:
        """The mean gradient once `amount` times the fine detail is added."""
        return float(np.abs(self.whole + np.float32(amount) * self.fine).sum(axis=0).mean())


def _sampled(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The rows that are measured: all, or stripes with `_SAMPLE` pixels together."""
    height, width = shape[:2]
    every = max(1, math.ceil(height * width / _SAMPLE))
    return [(y, min(y + _ROWS, height)) for y in range(0, height, _ROWS * every)]


def _details(pixels: np.ndarray, sigma: float, spans: list[tuple[int, int]]) -> Iterator[tuple[slice, np.ndarray]]:
    return ((part, fine) for part, fine, _ in _parts(pixels, sigma, spans))


def _parts(
    pixels: np.ndarray, sigma: float, spans: list[tuple[int, int]]
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Of each span of rows: which, its luma less its blurred luma, and its luma; float32 in 8-bit levels."""
    reach = math.ceil(4 * sigma) + 1
    for first, last in spans:
        last = min(last, len(pixels))
        above = max(0, first - reach)
        luma = _luma(pixels[above : min(len(pixels), last + reach)])
        blurred = cv2.GaussianBlur(luma, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        own = slice(first - above, last - above)
        yield slice(first, last), (luma - blurred)[own], luma[own]


def _luma(pixels: np.ndarray) -> np.ndarray:
    values = np.divide(pixels, _level(pixels), dtype=np.float32)
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)) if values.shape[2] == 3 else values[..., 0]


def _level(pixels: np.ndarray) -> int:
    return 257 if pixels.dtype == np.uint16 else 1
