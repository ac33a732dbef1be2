"""How a painted patch fits its surroundings: figures of the finished picture, for finding the odd ones of a run.

They are taken on the patch and on a ring of it, in stripes: nothing in this file is as large as the frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np

from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.noise import BINS, FEWEST, noise_histogram, noise_of, noise_values
from inpaint_ops.images.reading import to_8_bit, to_rgb
from inpaint_ops.records import Measures

RING = 16
"""Pixels: how wide the ring around the mask is, and the band of the patch along the mask's edge."""
MEASURED_PIXELS = 1 << 19
"""Of a larger window, evenly spaced stripes with about so many pixels together are measured."""

_SOBEL = 8
"""What Sobel's kernel makes of a slope of one level per pixel."""
_STRIPE = 1 << 18
_LEAST_ROWS = 64
_NEAR = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
_NEXT = np.ones((3, 3), np.uint8)


@dataclass(slots=True)
class _Mean:
    """The mean of values, added up part by part."""

    total: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray, mask: np.ndarray) -> None:
        self.total += cv2.sumElems(cv2.bitwise_and(values, values, mask=mask))[0]  # a tenth of the time of cv2.mean
        self.count += cv2.countNonZero(mask)

    @property
    def value(self) -> float | None:
        return self.total / self.count if self.count >= FEWEST else None


@dataclass(slots=True)
class _Region:
    """What is added up of the patch, or of the ring."""

    colours: tuple[_Mean, _Mean, _Mean] = field(default_factory=lambda: (_Mean(), _Mean(), _Mean()))
    gradient: _Mean = field(default_factory=_Mean)
    noise: np.ndarray = field(default_factory=lambda: np.zeros(BINS))


@dataclass(slots=True)
class _Pairs:
    """What is added up of the pairs of neighbouring pixels."""

    across: _Mean = field(default_factory=_Mean)
    beside: _Mean = field(default_factory=_Mean)
    inside: int = 0
    equal: int = 0


@dataclass(frozen=True, slots=True)
class _Stripe:
    """Some rows of the picture, with rows of context above and below; masks are of 0 and 255."""

    planes: tuple[np.ndarray, ...]
    patch: np.ndarray
    band: np.ndarray
    ring: np.ndarray
    own: slice


def measure(pixels: np.ndarray, weights: np.ndarray) -> Measures:
    """Measure a finished picture; `records.Measures` has the formula of each figure.

    The patch has the pixels with at least half of the mask's highest weight, its band those of them up to 16 pixels
    from a pixel of weight 0, and the ring the pixels of weight 0 up to 16 pixels from the mask: sideways, up or down.
    Alpha lies on white, and 16 bits are taken as 8, as a viewer shows them.

    Args:
        pixels: (H, W[, C]) uint8 or uint16, as `composite` gives them.
        weights: (H, W) uint8 of the mask, not all 0.

    A figure is None where fewer than 16 pixels, or pairs of pixels, decide it: the mask covers the frame, or is a dot.
    Of a window (the mask's box and the ring) of more than half a million pixels, evenly spaced stripes are measured.
    """
    pairs, patch, ring = _Pairs(), _Region(), _Region()
    for stripe in _stripes(pixels, weights):
        _add_pairs(pairs, stripe)
        luma = cv2.cvtColor(cv2.merge(stripe.planes), cv2.COLOR_RGB2GRAY) if stripe.planes[1:] else stripe.planes[0]
        slopes = np.abs(cv2.Sobel(luma, cv2.CV_16S, 1, 0)), np.abs(cv2.Sobel(luma, cv2.CV_16S, 0, 1))
        gradient, noise = cv2.add(*slopes)[stripe.own], noise_values(luma)[stripe.own]
        for region, near, whole in ((patch, stripe.band, stripe.patch), (ring, stripe.ring, stripe.ring)):
            for mean, plane in zip(region.colours, stripe.planes, strict=False):
                mean.add(plane[stripe.own], near[stripe.own])
            core = cv2.erode(whole, _NEXT, borderType=cv2.BORDER_REPLICATE)[stripe.own]
            region.gradient.add(gradient, core)
            region.noise += noise_histogram(noise, core)
    return Measures(
        seam_contrast=_ratio(pairs.across.value, pairs.beside.value, 1.0),
        colour_shift=_shift(patch, ring),
        flatness=pairs.equal / pairs.inside if pairs.inside >= FEWEST else None,
        sharpness_ratio=_ratio(patch.gradient.value, ring.gradient.value, 0.25 * _SOBEL),
        grain_ratio=_ratio(noise_of(patch.noise), noise_of(ring.noise), 0.25),
    )


def seam_contrast(pixels: np.ndarray, weights: np.ndarray) -> float | None:
    """The seam contrast of `measure` alone."""
    pairs = _Pairs()
    for stripe in _stripes(pixels, weights):
        _add_pairs(pairs, stripe)
    return _ratio(pairs.across.value, pairs.beside.value, 1.0)


def _has_alpha(pixels: np.ndarray) -> bool:
    return pixels.ndim == 3 and pixels.shape[2] in (2, 4)


def _stripes(pixels: np.ndarray, weights: np.ndarray) -> Iterator[_Stripe]:
    height, width = weights.shape
    x0, y0, x1, y1 = mask_bounds(weights)
    columns = slice(max(0, x0 - RING), min(width, x1 + RING))
    top, bottom = max(0, y0 - RING), min(height, y1 + RING)
    half = (int(weights.max()) + 1) // 2
    across = columns.stop - columns.start
    rows = max(_LEAST_ROWS, _STRIPE // across)
    every = max(1, round(across * (bottom - top) / MEASURED_PIXELS))
    for y in range(top, bottom, rows * every):
        end = min(y + rows, bottom)
        first, last = max(0, y - RING), min(height, end + RING)
        part = pixels[first:last, columns]
        shown = to_rgb(part) if _has_alpha(part) else to_8_bit(part)
        drawn = weights[first:last, columns]
        patch, outside = cv2.inRange(drawn, half, 255), cv2.inRange(drawn, 0, 0)
        yield _Stripe(
            planes=tuple(map(np.asarray, cv2.split(shown))) if shown.ndim == 3 else (np.ascontiguousarray(shown),),
            patch=patch,
            band=cv2.bitwise_and(patch, cv2.dilate(outside, _NEAR)),
            ring=cv2.bitwise_and(outside, cv2.dilate(cv2.bitwise_not(outside), _NEAR)),
            own=slice(y - first, end - first),
        )


def _add_pairs(pairs: _Pairs, stripe: _Stripe) -> None:
    """Of each pair the channel counts that differs most."""
    own = stripe.own
    below = slice(own.start + 1, own.stop + 1)  # one row less where the frame ends
    for one, other in (
        ((own, slice(None, -1)), (own, slice(1, None))),
        ((slice(own.start, min(own.stop, len(stripe.patch) - 1)), slice(None)), (below, slice(None))),
    ):
        if not stripe.patch[one].size:
            continue
        inside = cv2.bitwise_and(stripe.patch[one], stripe.patch[other])
        difference = cv2.absdiff(stripe.planes[0][one], stripe.planes[0][other])
        for plane in stripe.planes[1:]:
            difference = cv2.max(difference, cv2.absdiff(plane[one], plane[other]))
        pairs.across.add(difference, cv2.bitwise_xor(stripe.patch[one], stripe.patch[other]))
        for area in (stripe.band, stripe.ring):
            pairs.beside.add(difference, cv2.bitwise_and(area[one], area[other]))
        pairs.inside += cv2.countNonZero(inside)
        pairs.equal += cv2.countNonZero(cv2.bitwise_and(inside, cv2.inRange(difference, 0, 0)))


def _shift(patch: _Region, ring: _Region) -> float | None:
    shifts = [
        abs(inside - outside)
        for inside, outside in (
            (one.value, other.value) for one, other in zip(patch.colours, ring.colours, strict=True)
        )
        if inside is not None and outside is not None
    ]
    return max(shifts, default=None)


def _ratio(over: float | None, under: float | None, floor: float) -> float | None:
    """One figure over another, each raised by `floor`, so that it is finite of flat pictures too."""
    return None if over is None or under is None else (over + floor) / (under + floor)
