"""Bytes of a mask file -> one weight for each pixel of the source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from inpaint_ops.errors import MaskError
from inpaint_ops.images.mask_meaning import MaskChannel, weights_of
from inpaint_ops.images.reading import read_pixels

MAX_DILATE = 512
"""Pixels; the manifest's own limit."""
MAX_BLUR = 256.0
"""Sigma in pixels; the manifest's own limit."""

_SMALL_SIGMA = 8.0
"""Wider Gaussians are taken at a reduced size: the same curve, at a cost that does not grow with sigma."""


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask that is ready to use.

    Attributes:
        weights: (H, W) uint8: 0 keeps the source bit for bit, 255 is wholly painted. Never all 0.
        conversions: a sentence for each reading beyond "white is painted and black is kept".
    """

    weights: np.ndarray
    conversions: tuple[str, ...]


def read_mask(
    data: bytes,
    *,
    size: tuple[int, int],
    max_pixels: int,
    channel: MaskChannel = "auto",
    threshold: int | None = None,
    invert: bool = False,
    dilate: int = 0,
    blur: float = 0.0,
    resize: bool = False,
) -> Mask:
    """Decode a mask, find out what it means, and shape it: invert, then dilate, then feather.

    White is painted and black is kept; gray is a blend. What else a mask may look like (drawn in a colour, or on a
    transparent ground, or with other levels) says `weights_of`; colour counts by its luma (Rec. 601), and 16 bits are
    scaled to 8.

    Args:
        data: the whole file, of any kind that `decode_source` takes.
        size: (width, height) of the upright source.
        max_pixels: the most pixels that the mask may have; checked from its header.
        channel: what of the mask counts; "auto" finds it out.
        threshold: levels from there on are painted wholly, all others not at all; 0: levels are weights as they stand;
            None: what the levels mean is found out.
        invert: swap black and white.
        dilate: grow the mask by this many source pixels, in a circle, 0 to 512. What is grown has the mask's highest
            weight.
        blur: the sigma, in source pixels, of a Gaussian that softens the edge, 0 to 256. It feathers inward only: the
            weight rises from the edge and is full about 2 sigma inside. A pixel outside never gets a weight, and a
            pixel inside never loses all of its own; strokes thinner than about 3 sigma come out faint, so dilate them.
            The frame's own border is no edge.
        resize: a mask of another size and the source's aspect is scaled (nearest pixel) instead of refused.

    Raises MaskError when the mask has another size than the source, masks nothing, or could mean two things; ImageError
    when it cannot be read.
    """
    if not 0 <= dilate <= MAX_DILATE:
        raise MaskError(f"the mask cannot grow by {dilate} pixels: give mask_dilate from 0 to {MAX_DILATE}")
    if not 0 <= blur <= MAX_BLUR:
        raise MaskError(f"the mask cannot be feathered by {blur}: give mask_blur from 0 to {MAX_BLUR:g}")
    decoded = read_pixels(data, what="mask", max_pixels=max_pixels)
    height, width = decoded.array.shape[:2]
    fits = (width, height) == size
    if not fits and not (resize and _same_aspect((width, height), size)):
        raise MaskError(_another_size((width, height), size))
    weights, conversions = weights_of(decoded, channel=channel, threshold=threshold)
    if not fits:
        weights = cv2.resize(weights, size, interpolation=cv2.INTER_NEAREST)
        conversions += (
            f"the mask was scaled from {width}x{height} to the image's {size[0]}x{size[1]}, by nearest pixel",
        )
    if not weights.any():
        raise MaskError(_nothing(invert, channel, threshold))
    if invert:
        weights = 255 - weights
        if not weights.any():
            raise MaskError(
                "the mask masks nothing: all of it is white, and mask_invert makes it black: "
                "leave out mask_invert, or paint what to keep in white"
            )
    if dilate:
        weights = _dilated(weights, dilate)
    if blur:
        weights = feathered(weights, blur)
    return Mask(weights, conversions)


def decode_mask(data: bytes, **options: Any) -> np.ndarray:
    """The weights of `read_mask`, which has the same arguments: (H, W) uint8."""
    return read_mask(data, **options).weights


def _nothing(invert: bool, channel: MaskChannel, threshold: int | None) -> str:
    """A mask without any white is refused when it is to be inverted, too: it would cover the whole image."""
    if threshold:
        return f"the mask masks nothing: no level of it reaches mask_threshold {threshold}: give a lower one"
    ground = "transparent" if channel == "alpha" else "black"
    if invert:
        return (
            f"the mask masks nothing, every pixel of it is {ground}, and mask_invert would paint the whole image: "
            "paint what to keep in white"
        )
    return f"the mask masks nothing, every pixel of it is {ground}: paint what to replace in white"


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around every non-zero pixel of an (H, W) uint8 mask; (0, 0, 0, 0) when there is none."""
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width, y + height


def counted_from(mask: np.ndarray) -> int:
    """The weight from which a pixel counts as masked for the model: 128, or 1 where the whole mask is fainter."""
    return 128 if mask.max() >= 128 else 1


def _same_aspect(mask: tuple[int, int], source: tuple[int, int]) -> bool:
    """Whether one size is the other scaled, up to the pixel that rounding takes."""
    return abs(mask[0] * source[1] - mask[1] * source[0]) <= max(*source, *mask)


def _another_size(mask: tuple[int, int], source: tuple[int, int]) -> str:
    sizes = f"the mask is {mask[0]}x{mask[1]} and the image is {source[0]}x{source[1]}"
    if mask == source[::-1]:
        return (
            f"{sizes} once upright, so the mask is turned by 90 degrees: "
            "draw it on the image as viewers show it, with the EXIF orientation applied"
        )
    scaled = ", or set INPAINT_MASK_RESIZE=nearest to have it scaled" if _same_aspect(mask, source) else ""
    return f"{sizes}: make the mask the size of the image{scaled}"


def _window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The part of the frame within `margin` of the mask: nothing changes outside it."""
    x0, y0, x1, y1 = mask_bounds(mask)
    return slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)


def _dilated(weights: np.ndarray, radius: int) -> np.ndarray:
    """Give every pixel within `radius` (Euclidean) of a counted one the mask's highest weight."""
    window = _window(weights, radius)
    out = weights.copy()
    part = out[window]
    outside = np.where(part >= counted_from(weights), np.uint8(0), np.uint8(255))
    near = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius + 1e-3
    part[near] = weights.max()
    return out


def feathered(weights: np.ndarray, sigma: float) -> np.ndarray:
    """Scale the weights down towards the edge of what is masked: `blur` of `read_mask`.

    A Gaussian over a straight edge is 1/2 on the edge, so 2 g - 1 runs from 0 there to 1 inside.
    """
    window = _window(weights, math.ceil(3 * sigma) + 1)
    out = weights.copy()
    part = out[window]
    inside = np.where(part > 0, np.uint8(255), np.uint8(0))
    ramp = cv2.LUT(_gaussian(inside, sigma), np.clip(2 * np.arange(256) - 255, 0, 255).astype(np.uint8))
    faded = cv2.multiply(part, ramp, scale=1 / 255)
    out[window] = np.maximum(faded, np.minimum(part, 1))
    return out


def _gaussian(plane: np.ndarray, sigma: float) -> np.ndarray:
    height, width = plane.shape
    factor = min(int(sigma / _SMALL_SIGMA), height, width)
    if factor > 1:
        small = cv2.resize(plane, (-(-width // factor), -(-height // factor)), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), sigma / factor, borderType=cv2.BORDER_REPLICATE)
        return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.GaussianBlur(plane, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
