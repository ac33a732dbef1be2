"""The painted canvas -> the source again, changed where the mask says so and nowhere else."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from inpaint_ops.images.masks import mask_bounds
from inpaint_ops.images.placing import Box, Placement, resize
from inpaint_ops.images.reading import Source

_STRIPE = 1 << 18
"""Pixels blended at a time: what the 32-bit intermediates may cost is a few megabytes."""


Alpha = Literal["fill", "keep"]
"""What becomes of alpha under the mask: `fill` lays what was painted over the source, so that alpha rises to the mask's
weight at least; `keep` leaves alpha as it is, and what is painted under alpha 0 is not seen."""


def composite(
    source: Source, mask: np.ndarray, placement: Placement, painted: np.ndarray, *, alpha: Alpha = "fill"
) -> np.ndarray:
    """Put what was painted into the source, at the source's own size and depth.

    Args:
        source: the source.
        mask: (H, W) uint8 weights of `decode_mask`. Where it is 0 the result is the source's own value, bit for bit;
            where it is 255 it is the painted value; between, the rounded blend of the two.
        placement: of `place`, for the same source and mask.
        painted: (h, w, 3) uint8, the whole canvas at the working size.
        alpha: what becomes of the source's alpha under the mask.

    Painted colour becomes gray for a gray source (Rec. 601, as Pillow: L = 0.299 R + 0.587 G + 0.114 B), and is scaled
    by 257 for a 16-bit one. Where the box was reduced to fit the canvas it is enlarged again by cubic interpolation.

    Returns:
        the shape and dtype of `source.pixels`.

    Raises ValueError when the shapes do not belong together, or the mask reaches beyond the placement's box.
    """
    x0, y0, x1, y1 = patch_box(source, mask, placement, painted)
    out = source.pixels.copy()
    if x0 == x1:
        return out
    left, top = placement.box[:2]
    patch = enlarged_patch(source, placement, painted)[y0 - top : y1 - top, x0 - left : x1 - left]
    lay(out[y0:y1, x0:x1], patch, mask[y0:y1, x0:x1], alpha=alpha)
    return out


def patch_box(source: Source, mask: np.ndarray, placement: Placement, painted: np.ndarray) -> Box:
    """The mask's box. Raises ValueError when the arguments of `composite` do not belong together."""
    width, height = placement.working
    if painted.shape != (height, width, 3) or painted.dtype != np.uint8:
        raise ValueError(f"painted must be ({height}, {width}, 3) uint8, not {painted.shape} {painted.dtype}")
    if mask.shape != source.pixels.shape[:2]:
        raise ValueError("the mask has another size than the source")
    x0, y0, x1, y1 = mask_bounds(mask)
    box = placement.box
    if x0 < x1 and (x0 < box[0] or y0 < box[1] or x1 > box[2] or y1 > box[3]):
        raise ValueError("the mask reaches beyond the placement's box")
    return x0, y0, x1, y1


def enlarged_patch(source: Source, placement: Placement, painted: np.ndarray) -> np.ndarray:
    """What was painted on the placement's box: (h, w, 1 or 3) of the source's dtype, at the source's own size."""
    left, top, right, bottom = placement.inner
    patch = np.ascontiguousarray(painted[top:bottom, left:right])
    if source.pixels.ndim == 2 or source.pixels.shape[2] == 2:
        patch = np.asarray(Image.fromarray(patch).convert("L"))
    if source.pixels.dtype == np.uint16:
        patch = patch.astype(np.uint16) * 257  # before enlarging, so that gradients between 8-bit levels appear
    patch = resize(patch, placement.box_size)
    return patch.reshape(*patch.shape[:2], -1)


def lay(kept: np.ndarray, patch: np.ndarray, weights: np.ndarray, *, alpha: Alpha) -> None:
    """Lay (h, w, 1 or 3) painted pixels over (h, w[, C]) pixels, in place: see `composite`."""
    height, width = weights.shape
    colours = patch.shape[2]
    planes = kept[..., None] if kept.ndim == 2 else kept[..., :colours]
    rows = max(1, _STRIPE // width)
    for y in range(0, height, rows):
        stripe = slice(y, y + rows)
        if alpha == "fill" and kept.ndim == 3 and kept.shape[2] in (2, 4):
            _lay_over(kept[stripe], patch[stripe], weights[stripe])
        else:
            _blend(planes[stripe], patch[stripe], weights[stripe][..., None])


def _blend(kept: np.ndarray, painted: np.ndarray, weights: np.ndarray) -> None:
    """Blend into `kept`, rounded to nearest, in whole numbers: 65535 x 255 fits 32 bits, and 0 and 255 are exact."""
    share = weights.astype(np.uint32)
    kept[...] = (kept * (255 - share) + painted * share + 127) // 255


def _lay_over(kept: np.ndarray, painted: np.ndarray, weights: np.ndarray) -> None:
    """Lay what was painted, as opaque as the mask's weight, over pixels with straight alpha, in place.

    Porter and Duff's "over" (1984): alpha becomes w + a (1 - w), and colour the mean of both, weighted by what each
    shows. Opaque pixels come out as `_blend` makes them, exactly; weight 0 changes nothing.
    """
    top = int(np.iinfo(kept.dtype).max)
    opaque = kept[..., -1] == top
    colours = kept[..., :-1]
    blended = colours.copy()
    _blend(blended, painted, weights[..., None])
    colours[opaque] = blended[opaque]
    seen = ~opaque & (weights > 0)
    share = weights[seen].astype(np.float64)[:, None] / 255
    below = kept[seen][:, -1:].astype(np.float64) / top * (1 - share)
    alpha = share + below
    mixed = (painted[seen] * share + kept[seen][:, :-1] * below) / alpha
    kept[seen] = np.rint(np.concatenate((mixed, alpha * top), axis=1)).astype(kept.dtype)
