"""Files beside a finished image: the patch alone, the mask as it was used, before and after in one picture."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import numpy as np

from inpaint_ops.config import SideProduct
from inpaint_ops.images import png
from inpaint_ops.images.encoding import encode, save_lossy_webp
from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.metadata import NOTHING, Metadata
from inpaint_ops.images.placing import Box
from inpaint_ops.images.thumbnails import shrunk, small_profile

PREVIEW_BYTES: Final = 2**22
"""Bytes of a preview, at most. Noise, at our quality, stays below."""
_PREVIEW_SIDE, _PREVIEW_GAP = 800, 8
PREVIEW_SIZE: Final = 2 * _PREVIEW_SIDE + _PREVIEW_GAP
"""Pixels of a preview's longer side, at most."""
_QUALITY, _EFFORT = 80, 2

Piece = tuple[Box, np.ndarray, np.ndarray]
"""What was laid down somewhere: its box in the picture, (h, w, 1 or 3) colours, and (h, w) uint8 weights."""


def side_product_file(kind: SideProduct) -> str:
    """The name of the file beside a row's output on its way from the worker to the store."""
    return f"side-product-{kind}"


def patch_layer(weights: np.ndarray, pieces: Iterable[Piece], like: np.ndarray) -> tuple[Box, np.ndarray]:
    """What was painted, as a layer with straight alpha.

    Laid over the source at the box by the usual formula ("over"), the layer makes the image again.

    Args:
        weights: (H, W) uint8, all pieces' together, not all 0.
        pieces: none of them weighs a pixel that another one weighs.
        like: the source's pixels: the layer has their dtype, and gray or RGB as they have.

    Returns:
        (x0, y0, x1, y1) of the pixels that are weighed; (h, w, 2 or 4), whose alpha is the weight; 0 beside it.
    """
    x0, y0, x1, y1 = box = mask_bounds(weights)
    gray = like.ndim == 2 or like.shape[2] == 2
    layer = np.zeros((y1 - y0, x1 - x0, 2 if gray else 4), like.dtype)
    for (left, top, right, bottom), colours, own in pieces:
        a, b, c, d = max(left, x0), max(top, y0), min(right, x1), min(bottom, y1)
        here = slice(b - top, d - top), slice(a - left, c - left)
        part = layer[b - y0 : d - y0, a - x0 : c - x0, :-1]
        np.copyto(part, colours[here], where=(own[here] > 0)[..., None])
    layer[..., -1] = weights[y0:y1, x0:x1]
    if like.dtype == np.uint16:
        layer[..., -1] *= 257
    return box, layer


def patch_file(
    layer: np.ndarray,
    box: Box,
    *,
    icc: bytes | None,
    metadata: Metadata = NOTHING,
    effort: png.Effort = "fast",
) -> bytes:
    """A layer of `patch_layer` as a PNG whose `oFFs` chunk says where it belongs, in pixels."""
    data = encode(layer, format="png", icc=icc, metadata=metadata, effort=effort)
    return png.with_chunks(data, [(b"oFFs", struct.pack(">iiB", box[0], box[1], 0))])


def mask_file(weights: np.ndarray, *, effort: png.Effort = "fast") -> bytes:
    """(H, W) uint8 weights as a gray PNG: 0 is what cannot have changed, 255 what was painted alone."""
    return encode(weights, format="png", icc=None, effort=effort)


def preview_file(before: np.ndarray, after: np.ndarray, *, icc: bytes | None, metadata: Metadata = NOTHING) -> bytes:
    """Before and after as one lossy WebP: side by side, or one above the other where the picture is wide.

    Args:
        before: (H, W[, C]) uint8 or uint16, the source. 800 pixels of its longer side are shown, at most.
        after: of the same shape, the image.
        icc: their profile; one of RGB is kept where it is small.
        metadata: what the file says of itself.
    """
    one, other = (shrunk(pixels, _PREVIEW_SIDE) for pixels in (before, after))
    height, width = one.shape[:2]
    wide = width > height
    gap = np.full((_PREVIEW_GAP, width, 3) if wide else (height, _PREVIEW_GAP, 3), 255, np.uint8)
    both = np.concatenate((one, gap, other), axis=0 if wide else 1)
    return save_lossy_webp(both, quality=_QUALITY, effort=_EFFORT, icc=small_profile(icc), metadata=metadata)
