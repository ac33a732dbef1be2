"""The colour of a patch brought nearer to its surroundings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inpaint_ops.config import Match
from inpaint_ops.images.noise import FEWEST

MOST_SHIFT = 24.0
"""8-bit levels by which a value is shifted at most."""

_AT_ONCE = 1 << 20
"""Pixels that are looked up at once: NumPy makes 8 bytes of each."""

_QUANTILES = np.linspace(0.02, 0.98, 49)


@dataclass(frozen=True, slots=True, eq=False)
class Shifts:
    """What is added to each value of each channel of a patch.

    Attributes:
        table: (C, levels) float32, in the patch's own numbers, for each of its values.
        mean: 8-bit levels for each channel, at the band's mean.
        is_limited: whether some of them would have been larger than `MOST_SHIFT`.
    """

    table: np.ndarray
    mean: tuple[float, ...]
    is_limited: bool

    def apply(self, patch: np.ndarray) -> np.ndarray:
        """The shifted patch, (h, w, C) of the same dtype."""
        top = np.iinfo(patch.dtype).max
        values = np.arange(top + 1, dtype=np.float32)
        shifted = np.clip(np.rint(values + self.table), 0, top).astype(patch.dtype)
        out = np.empty_like(patch)
        rows = max(1, _AT_ONCE // max(1, patch.shape[1]))
        for first in range(0, len(patch), rows):
            part = patch[first : first + rows]
            for channel, table in enumerate(shifted):
                np.take(table, part[..., channel], out=out[first : first + rows, :, channel])
        return out


def shifts(match: Match, wanted: np.ndarray, found: np.ndarray) -> Shifts | None:
    """What to add to a patch, so that its band along the mask's edge has the colours of the ring around the mask.

    Args:
        match: `mean` adds one number to each channel; `histogram` maps the band's distribution of values, quantile by
            quantile, and goes on beyond its ends as at them.
        wanted: (n, C) uint8 or uint16: the ring's pixels, colour alone.
        found: (m, C) of the same dtype: the band's.

    Returns None where either has fewer than 16 pixels, or nothing is to be matched.
    """
    if match == "none" or min(len(wanted), len(found)) < FEWEST:
        return None
    level = 257 if found.dtype == np.uint16 else 1
    values = np.arange(np.iinfo(found.dtype).max + 1, dtype=np.float32)
    tables, means, is_limited = [], [], False
    for channel in range(found.shape[1]):
        ring, band = wanted[:, channel] / level, found[:, channel] / level
        if match == "mean":
            shift = np.full(len(values), ring.mean() - band.mean())
        else:
            at, first = np.unique(np.quantile(band, _QUANTILES), return_index=True)
            moved = np.quantile(ring, _QUANTILES)[first] - at
            shift = np.interp(values / level, at, moved)
        is_limited = is_limited or bool(abs(shift).max() > MOST_SHIFT)
        shift = np.clip(shift, -MOST_SHIFT, MOST_SHIFT)
        tables.append(shift * level)
        means.append(float(np.interp(band.mean(), values / level, shift)))
    return Shifts(np.asarray(tables, np.float32), tuple(means), is_limited)
