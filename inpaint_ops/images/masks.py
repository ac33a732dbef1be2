"""Bytes of a mask file -> one weight for each pixel of the source."""

from __future__ import annotations

import math

import cv2
import numpy as np
from PIL import Image

from inpaint_ops.errors import MaskError
from inpaint_ops.images.reading import read_pixels, to_8_bit

MAX_DILATE = 512
"""Pixels; the manifest's own limit."""
MAX_BLUR = 256.0
"""Sigma in pixels; the manifest's own limit."""

_JPEG_NOISE = 16
"""JPEG rings around sharp edges: levels this close to black or white are taken for black or white."""
_SMALL_SIGMA = 8.0
"""Wider Gaussians are taken at a reduced size: the same curve, at a cost that does not grow with sigma."""


def decode_mask(
    data: bytes,
    *,
    size: tuple[int, int],
    max_pixels: int,
    invert: bool = False,
    dilate: int = 0,
    blur: float = 0.0,
) -> np.ndarray:
    """Decode a mask, and shape it: invert, then dilate, then feather.

    White is painted and black is kept; gray is a blend. A mask with alpha counts by luminance times alpha, so that
    white strokes on a transparent ground work. Colour counts by its luma (Rec. 601); 16 bits are scaled to 8. JPEG
    levels up to 16 count as black and from 239 as white, since JPEG leaves noise around every edge.

    Args:
        data: the whole file, of any kind that `decode_source` takes.
        size: (width, height) of the upright source.
        max_pixels: the most pixels that the mask may have; checked from its header.
        invert: swap black and white.
        dilate: grow the mask by this many source pixels, in a circle, 0 to 512. What is grown has the mask's highest
            weight.
        blur: the sigma, in source pixels, of a Gaussian that softens the edge, 0 to 256. It feathers inward only: the
            weight rises from the edge and is full about 2 sigma inside. A pixel outside never gets a weight, and a
            pixel inside never loses all of its own; strokes thinner than about 3 sigma come out faint, so dilate them.
            The frame's own border is no edge.

    Returns:
        (H, W) uint8 weights: 0 keeps the source bit for bit, 255 is wholly painted.

    Raises MaskError when the mask has another size than the source or masks nothing; ImageError when it cannot be read.
    """
    if not 0 <= dilate <= MAX_DILATE:
        raise MaskError(f"the mask cannot grow by {dilate} pixels: give mask_dilate from 0 to {MAX_DILATE}")
    if not 0 <= blur <= MAX_BLUR:
        raise MaskError(f"the mask cannot be feathered by {blur}: give mask_blur from 0 to {MAX_BLUR:g}")
    decoded = read_pixels(data, what="mask", max_pixels=max_pixels)
    height, width = decoded.array.shape[:2]
    if (width, height) != size:
        raise MaskError(_another_size((width, height), size))
    weights = _levels(decoded.array)
    if decoded.format == "jpeg":
        weights = cv2.LUT(weights, _JPEG_LEVELS)
    if invert:
        weights = 255 - weights
    if not weights.any():
        ground = "white" if invert else "black or transparent"
        raise MaskError(
            f"the mask masks nothing, every pixel of it is {ground}: paint what to replace, or change mask_invert"
        )
    if dilate:
        weights = _dilated(weights, dilate)
    if blur:
        weights = _feathered(weights, blur)
    return weights


_JPEG_LEVELS = np.arange(256, dtype=np.uint8)
_JPEG_LEVELS[: _JPEG_NOISE + 1] = 0
_JPEG_LEVELS[255 - _JPEG_NOISE :] = 255


def mask_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) around every non-zero pixel of an (H, W) uint8 mask; (0, 0, 0, 0) when there is none."""
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, x + width, y + height


def counted_from(mask: np.ndarray) -> int:
    """The weight from which a pixel counts as masked for the model: 128, or 1 where the whole mask is fainter."""
    return 128 if mask.max() >= 128 else 1


def _another_size(mask: tuple[int, int], source: tuple[int, int]) -> str:
    sizes = f"the mask is {mask[0]}x{mask[1]} and the image is {source[0]}x{source[1]}"
    if mask == source[::-1]:
        return (
            f"{sizes} once upright, so the mask is turned by 90 degrees: "
            "draw it on the image as viewers show it, with the EXIF orientation applied"
        )
    return f"{sizes}: make the mask the size of the image"


def _levels(pixels: np.ndarray) -> np.ndarray:
    eight = to_8_bit(pixels)
    if eight.ndim == 2:
        return eight
    channels = eight.shape[2]
    if channels == 2:
        luma = np.ascontiguousarray(eight[..., 0])
    else:
        luma = np.asarray(Image.fromarray(np.ascontiguousarray(eight[..., :3])).convert("L"))
    if channels == 3:
        return luma
    return cv2.multiply(luma, np.ascontiguousarray(eight[..., -1]), scale=1 / 255)


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


def _feathered(weights: np.ndarray, sigma: float) -> np.ndarray:
    """Scale the weights down towards the edge of what is masked.

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
