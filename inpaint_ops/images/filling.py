"""What the masked area of a canvas holds before it is encoded: the source's own pixels, or something in their place."""

from __future__ import annotations

import cv2
import numpy as np

from inpaint_ops.config import Fill
from inpaint_ops.errors import ConfigError
from inpaint_ops.images.lama import Lama
from inpaint_ops.images.placing import Placement

RING = 16
"""Pixels of the canvas around the mask that `mean` is taken over."""

TELEA_RADIUS = 3
TELEA_PIXELS = 1 << 18
"""Masked pixels that are filled at full size, at most: 0.3 s of one core. Of a larger area every second (third, …)
pixel is filled each way, and those between are interpolated: it holds no detail that this could lose."""

_GRAY = 128


def fill_masked(
    rgb: np.ndarray, mask: np.ndarray, placement: Placement, fill: Fill, seed: int, lama: Lama | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The canvas with its masked cells filled. What is not masked stays as it is, bit for bit.

    Args:
        rgb: (h, w, 3) uint8, of `to_working`.
        mask: (h, w) uint8 of 0 and 255, of `to_working`.
        placement: of both; its padding, which repeats the picture's edge, decides no colour.
        fill: `original` changes nothing; `noise` gives each pixel a colour at random; `mean` is the mean colour of the
            ring around the mask; `telea` goes on with the surroundings (Telea, An Image Inpainting Technique Based on
            the Fast Marching Method, 2004); `lama` is what that network sees there.
        seed: of `noise`, 0 to 2^63-1.
        lama: the network of `lama`.

    Returns:
        the canvas, (h, w, 3) uint8, and a sentence for each thing that could not be done as asked: without a pixel
        around the mask, `mean`, `telea` and `lama` are middle gray.

    Raises ConfigError where `lama` has no network, NonFiniteImageError where that network gives NaN.
    """
    if fill == "original":
        return rgb, ()
    masked = mask > 0
    if fill == "noise":
        new = np.random.default_rng(seed).integers(0, 256, rgb.shape, np.uint8)
        return np.where(masked[..., None], new, rgb), ()
    x0, y0, x1, y1 = placement.inner
    picture, hole = rgb[y0:y1, x0:x1], np.ascontiguousarray(mask[y0:y1, x0:x1])
    if hole.all():
        colour, notes = np.full(3, _GRAY, np.uint8), (f"fill {fill} is gray: nothing is left around the mask",)
        return np.where(masked[..., None], colour, rgb), notes
    if fill == "telea":
        inner = _telea(picture, hole)
    elif fill == "lama":
        inner = _by_network(picture, hole, lama)
    else:
        inner = _mean(picture, hole)
    height, width = mask.shape
    new = cv2.copyMakeBorder(inner, y0, height - y1, x0, width - x1, cv2.BORDER_REPLICATE)
    return np.where(masked[..., None], new, rgb), ()


def _mean(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of one colour: the mean of the pixels up to RING from the hole, which is not everywhere."""
    near = cv2.dilate(hole, np.ones((2 * RING + 1, 2 * RING + 1), np.uint8))
    ring = cv2.bitwise_and(near, cv2.bitwise_not(hole))
    colour = np.rint(cv2.mean(np.ascontiguousarray(picture), mask=ring)[:3]).astype(np.uint8)
    return np.broadcast_to(colour, picture.shape).copy()


def _by_network(picture: np.ndarray, hole: np.ndarray, lama: Lama | None) -> np.ndarray:
    """`picture` as the network gives it back, (h, w, 3) uint8. The mean is in the hole before it is scaled down, so
    that nothing of what was there reaches a pixel that the network takes for known.
    """
    if lama is None:
        raise ConfigError("fill lama needs the network's file: give --fill-model, or choose another fill")
    return lama.fill(np.where(hole[..., None] > 0, _mean(picture, hole), picture), hole)


def _telea(picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """`picture` with its hole filled from its edge, (h, w, 3) uint8.

    OpenCV looks at what is in the hole, too, for gradients at its edge: the mean takes its place first.
    """
    picture = np.where(hole[..., None] > 0, _mean(picture, hole), picture)
    every, masked = 1, cv2.countNonZero(hole)
    while masked > TELEA_PIXELS * every * every:
        every += 1
    few, small = picture[::every, ::every], hole[::every, ::every]
    if every > 1 and small.all():  # the pixels around the hole are all skipped
        return picture
    filled = cv2.inpaint(np.ascontiguousarray(few), np.ascontiguousarray(small), TELEA_RADIUS, cv2.INPAINT_TELEA)
    if every == 1:
        return filled
    return cv2.resize(filled, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
