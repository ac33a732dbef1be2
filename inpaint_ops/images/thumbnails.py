"""Small WebP pictures of what was painted, made of the pixels that the worker has in memory: for pages, never exact."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from inpaint_ops.images.encoding import save_lossy_webp
from inpaint_ops.images.placing import resize
from inpaint_ops.images.reading import to_rgb

THUMBNAIL_SIZES = (256, 1600)
"""Pixels of the longer side, at most, the small one first."""

THUMBNAIL_BYTES = {256: 2**18, 1600: 2**22}
"""Bytes of one of that size, at most. Noise, at our quality, stays below them."""


def thumbnail_name(size: int) -> str:
    """The name of the file beside a row's output on its way from the worker to the store."""
    return f"thumbnail-{size}"


_QUALITY = 80
_EFFORT = 0
"""Of libwebp's 0 to 6. At 1 a photo takes a third longer, and its files are 4 % smaller."""
_PROFILE_BYTES = 2**12
"""A colour profile up to this size is kept, so that a browser shows the image's own colours."""


def thumbnails(pixels: np.ndarray, *, icc: bytes | None = None) -> Iterator[tuple[int, bytes]]:
    """Each size with a WebP file: alpha on white, 8 bits, never enlarged.

    The larger one is left out where the small one has all pixels already.

    Args:
        pixels: (H, W[, C]) uint8 or uint16, as `encode` takes them.
        icc: the image's profile; one of RGB is kept where it is small.
    """
    profile = small_profile(icc)
    height, width = pixels.shape[:2]
    small, large = THUMBNAIL_SIZES
    view = shrunk(pixels, large)
    yield small, save_lossy_webp(shrunk(view, small), quality=_QUALITY, effort=_EFFORT, icc=profile)
    if max(height, width) > small:
        yield large, save_lossy_webp(view, quality=_QUALITY, effort=_EFFORT, icc=profile)


def small_profile(icc: bytes | None) -> bytes | None:
    """A profile of RGB that is small enough to go into a small picture; else None."""
    return icc if icc is not None and len(icc) <= _PROFILE_BYTES and icc[16:20] == b"RGB " else None


def shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    """(h, w, 3) uint8 of pixels as `encode` takes them: `longest` pixels long at most, alpha on white."""
    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return to_rgb(pixels) if size == (width, height) else to_rgb(resize(pixels, size))
