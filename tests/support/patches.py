"""A picture, a mask on it, and what was painted, joined: for tests of how a patch meets its source."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import strategies as st

from inpaint_ops import images
from inpaint_ops.images import JoinOptions, Source, join
from inpaint_ops.images.reading import to_rgb
from tests.support.pictures import Array

BOX = (slice(60, 150), slice(50, 160))


def source_of(pixels: Array) -> Source:
    return Source(pixels, to_rgb(pixels), None, "png", ())


def photo(grain: float = 3.0, seed: int = 0, side: int = 224) -> Array:
    dice = np.random.default_rng(seed)
    shapes = cv2.resize(dice.uniform(80, 170, (8, 8, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(shapes + dice.normal(0, grain, shapes.shape), 50, 205).astype(np.uint8)


def boxed(side: int = 224) -> Array:
    mask = np.zeros((side, side), np.uint8)
    mask[BOX] = 255
    return mask


def joined(pixels: Array, mask: Array, painted: Array, options: JoinOptions) -> images.Joined:
    """Painted is at the size of the whole source, as a canvas of that size."""
    placement = images.Placement((0, 0, *mask.shape[::-1]), mask.shape[::-1], (0, 0, *mask.shape[::-1]))
    return join(source_of(pixels), mask, placement, painted, options)


WAYS = st.builds(
    JoinOptions,
    blend=st.sampled_from(["hard", "feather", "poisson", "auto"]),
    feather=st.sampled_from([0.0, 0.0, 0.4, 3.0, 40.0]),
    match=st.sampled_from(["none", "mean", "histogram"]),
    grain=st.sampled_from(["none", "match"]),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.sampled_from(["fill", "keep"]),
    sharpen=st.sampled_from(["none", "match"]),
)  # fmt: skip
"""Whatever may be asked of a patch."""


@st.composite
def masks(draw: st.DrawFn) -> Array:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(1, 3))):
        y, x = dice.integers(height), dice.integers(width)
        mask[y : y + dice.integers(1, 60), x : x + dice.integers(1, 60)] = draw(st.sampled_from([255, 255, 128, 1]))
    return mask
