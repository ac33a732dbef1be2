"""How a row's fields become what its patch is joined by."""

from __future__ import annotations

from inpaint_ops import images
from inpaint_ops.protocol import Item


def feather_when_read(item: Item) -> float:
    """The sigma by which the mask is feathered before the model sees it; `auto` decides after the painting."""
    return 0.0 if item.blend == "auto" else item.mask_blur


def wish_of(item: Item, alpha: images.Alpha) -> images.Wish:
    """How the row's patch shall be joined; its grain is seeded by the row's seed."""
    return images.Wish(item.blend, item.mask_blur, item.match, item.grain, item.seed, alpha)
