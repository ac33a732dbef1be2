"""What the gray levels of a mask mean: which level is black, which is white, and what lies between.

People bring masks that count 0 and 1, class numbers, masks on a ground that is not quite black, and masks that a lossy
format has changed. The content decides, never the file's name. Each reading but the plain one is stated in a sentence.
"""

from __future__ import annotations

import cv2
import numpy as np

from inpaint_ops.errors import MaskError

NOISE = 16
"""Levels: lossy formats ring around sharp edges, and grounds are often not quite black. Where the histogram shows such
noise, levels this close to black or white are taken for black or white."""
_FAINT = 128
"""A mask without plateaus whose highest level is lower than this is refused: most of what is painted would not show."""
_PLATEAU, _WIDTH = 0.6, 8
"""A plateau: this share of the darker (brighter) pixels lies within this many levels of the most frequent one."""
_OVERSHOOT = 32
"""How far noise reaches beyond a plateau, in levels."""
_LOUD = 96
"""Levels: how far from black the noise of a strongly compressed mask may reach."""
_GAP = 2
"""Noise or a ground: this many times more pixels lie in the NOISE levels next to black than from there to the middle. A
Gaussian edge has 0.7 times as many, a Gaussian dot 1.4 times."""
_STRICT_EXTREMA = 0.02
"""The share of the pixels next to black that are brighter than all eight neighbours: gradients have none, noise has
about a ninth."""
_FEWEST_EXTREMA = 50
"""So many are needed to judge by them how loud the noise is."""
_BLEND_SHARE = 0.1
"""A level between is a region of its own, and not an edge, when it holds this share of what is not black."""
_MOST_REGIONS = 16

_WIDE_COUNTS = {1023: 10, 4095: 12, 16383: 14, 32767: 15, 32768: 15}
"""Highest levels of 16-bit files that count in fewer bits, and in how many."""


def to_levels(plane: np.ndarray, conversions: list[str]) -> np.ndarray:
    """One channel as 8-bit levels: (H, W) uint8 of (H, W) uint8 or uint16.

    A 16-bit channel that counts to 255 at most holds 8-bit levels; one that counts to 1023, 4095, 16383 or 32768 holds
    10, 12, 14 or 15 bits. Both are recorded in `conversions`.
    """
    if plane.dtype == np.uint8:
        return plane
    highest = int(plane.max())
    if 0 < highest <= 255:
        conversions.append(f"the mask has 16 bits, but no level above {highest}: read as 8 bits")
        return plane.astype(np.uint8)
    if highest in _WIDE_COUNTS:
        conversions.append(
            f"the mask has 16 bits, but its highest level is {highest}: read as {_WIDE_COUNTS[highest]} bits"
        )
        return cv2.convertScaleAbs(plane, alpha=255 / highest)
    return cv2.convertScaleAbs(plane, alpha=1 / 257)


def read_levels(plane: np.ndarray, conversions: list[str], *, is_lossy: bool = False) -> np.ndarray:
    """Weights of a channel's levels, with a sentence in `conversions` for each reading that changed one.

    - two levels, whichever they are: the higher is white, the lower black; also with soft or noisy edges between them;
    - a ground that is not quite black becomes black, and noise around black and white becomes black and white;
    - all other levels are weights as they stand.

    Args:
        plane: (H, W) uint8.
        conversions: where sentences go.
        is_lossy: the file's own format is lossy, so noise is sure to be there.

    Returns:
        (H, W) uint8; all 0 where every pixel is black.

    Raises MaskError for a mask of one level that is neither black nor white, and for one that is faint throughout.
    """
    counts = _histogram(plane)
    present = np.flatnonzero(counts)
    low, high = int(present[0]), int(present[-1])
    if low == high:
        return _one_level(plane, low, conversions)
    if low >= 255 - NOISE:
        conversions.append(f"the mask's levels are {low} to {high}: all of it was taken for white")
        return np.full_like(plane, 255)
    if len(present) == 2:
        return plane if (low, high) == (0, 255) else _stretched(plane, low, high, conversions)
    ground, top = _plateaus(counts, low, high)
    if ground is not None and top is not None and top - ground >= _OVERSHOOT:
        if (ground, top) != (0, 255):
            plane = _stretched(plane, ground, top, conversions)
    elif high < _FAINT:
        raise MaskError(_faint(counts, present))
    else:
        if ground:
            conversions.append(f"the mask's ground has level {ground}: taken for black")
            plane = _lut(plane, ground, 255)
        if high < 255 - NOISE:
            conversions.append(
                f"the mask's highest level is {high} of 255: what is painted shows to {_percent(high)} at most "
                "(mask_threshold makes it whole)"
            )
    plane = _without_noise(plane, conversions, is_lossy)
    _note_blends(_histogram(plane), conversions)
    return plane


def over_threshold(plane: np.ndarray, threshold: int) -> np.ndarray:
    """255 where an (H, W) uint8 channel reaches the threshold, 1 to 255, else 0."""
    return np.where(plane >= threshold, np.uint8(255), np.uint8(0))


def _histogram(plane: np.ndarray) -> np.ndarray:
    return cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def _one_level(plane: np.ndarray, level: int, conversions: list[str]) -> np.ndarray:
    if level in (0, 255):
        return plane
    if level >= 255 - NOISE:
        conversions.append(f"the mask has level {level} everywhere: taken for white")
        return np.full_like(plane, 255)
    raise MaskError(
        f"the mask has level {level} of 255 everywhere, so it does not say where to paint: "
        f"paint what to replace in white on black, or give mask_threshold {level} to paint the whole image"
    )


def _stretched(plane: np.ndarray, ground: int, top: int, conversions: list[str]) -> np.ndarray:
    conversions.append(f"the mask's two levels are {ground} and {top}: taken for black and white")
    return _lut(plane, ground, top)


def _lut(plane: np.ndarray, ground: int, top: int) -> np.ndarray:
    levels = np.rint((np.arange(256) - ground) * (255 / (top - ground)))
    return cv2.LUT(plane, np.clip(levels, 0, 255).astype(np.uint8))


def _plateaus(counts: np.ndarray, low: int, high: int) -> tuple[int | None, int | None]:
    """The ground's level and the painted part's, None where that half of the levels has no plateau at its end."""
    middle = (low + high + 1) // 2
    exact = np.count_nonzero(counts) <= _MOST_REGIONS  # no noise: nothing lies beyond a plateau
    width, overshoot = (0, 0) if exact else (_WIDTH, _OVERSHOOT)

    def peak(start: int, end: int, edge: int) -> int | None:
        half = counts[start:end]
        level = start + int(half.argmax())
        near = half[max(0, level - width - start) : level + width + 1 - start].sum()
        return level if near >= _PLATEAU * half.sum() and abs(level - edge) <= overshoot else None

    return peak(low, middle, low), peak(middle, high + 1, high)


def _faint(counts: np.ndarray, present: np.ndarray) -> str:
    high = int(present[-1])
    classes = len(present) <= _MOST_REGIONS
    start = int(present[1 if present[0] == 0 else 0]) if classes else max(1, (high + 1) // 2)
    return (
        f"the mask's highest level is {high} of 255, so what is painted would hardly show: save it in black and white, "
        f"or give mask_threshold {start} to paint from level {start} on, or 0 to take the levels as they are"
    )


def _without_noise(plane: np.ndarray, conversions: list[str], is_lossy: bool) -> np.ndarray:
    """Levels next to black and white snapped to them, where the content says that they are noise or a ground."""
    table = np.arange(256, dtype=np.uint8)
    counts = _histogram(plane)
    dark = _noise(plane, counts, is_lossy)
    bright = _noise(255 - plane, counts[::-1], is_lossy)
    table[: dark + 1] = 0
    table[255 - bright :] = 255
    ends = [f"0 to {dark} as black"] if dark else []
    ends += [f"{255 - bright} to 255 as white"] if bright else []
    if not ends:
        return plane
    conversions.append(f"noise of the mask's levels was taken out: {' and '.join(ends)}")
    return cv2.LUT(plane, table)


def _noise(plane: np.ndarray, counts: np.ndarray, is_lossy: bool) -> int:
    """How far noise reaches from black, in levels; 0 where there is none."""
    near, between = int(counts[1 : NOISE + 1].sum()), int(counts[NOISE + 1 : 128].sum())
    if near == 0 or counts[128:].sum() == 0:
        return 0
    ring = cv2.dilate(plane, np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8))
    strict = plane[(plane > ring) & (plane <= _LOUD)]
    is_noisy = np.count_nonzero(strict <= NOISE) >= max(4, _STRICT_EXTREMA * near)
    if is_noisy and len(strict) >= _FEWEST_EXTREMA:
        return max(NOISE, int(np.quantile(strict, 0.99)))
    return NOISE if is_noisy or is_lossy or near > _GAP * between else 0


def _note_blends(counts: np.ndarray, conversions: list[str]) -> None:
    """Tell of gray regions of their own: classes and trimaps have them, soft edges do not."""
    masked = counts[1:].sum()
    if counts[NOISE + 1 : 255 - NOISE].sum() > counts.sum() / 2:
        conversions.append("most of the mask is gray, and is blended: a mask is mostly black and white, a photo is not")
    regions = [level for level in range(NOISE + 1, 255 - NOISE) if counts[level] >= max(1, _BLEND_SHARE * masked)]
    if regions and masked:
        levels = ", ".join(f"{level} ({_percent(level)})" for level in regions[:6])
        conversions.append(f"gray regions of the mask are blended: level {levels}; mask_threshold makes them whole")


def _percent(level: int) -> str:
    return f"{level * 100 // 255} %"
