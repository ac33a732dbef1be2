"""Masks of any size and shape, native sizes and crops: strategies for property tests of images."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

NATIVES = st.sampled_from([32, 64, 128, 256])
CROPS = st.one_of(st.sampled_from(["none", "auto"]), st.integers(0, 60))
SIDES = st.one_of(st.integers(1, 40), st.integers(41, 400))
RELAXED = settings(deadline=None, max_examples=60)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """(H, W) uint8 weights with at least one pixel: a few rectangles and single pixels, some of them faint."""
    height, width = draw(SIDES), draw(SIDES)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 4))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
        if draw(st.booleans()):
            x1 = x0 + 1
        if draw(st.booleans()):
            y1 = y0 + 1
        mask[y0:y1, x0:x1] = draw(st.sampled_from([255, 255, 200, 128, 127, 1]))
    return mask
