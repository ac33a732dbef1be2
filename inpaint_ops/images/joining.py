"""A painted patch joined to its source: colour matched, edge blended, grain added, as far as that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from inpaint_ops.config import Blend, Grain, Match, Sharpen
from inpaint_ops.images.compositing import Alpha, enlarged_patch, lay, patch_box
from inpaint_ops.images.grain import MOST_GRAIN, missing_grain, with_grain
from inpaint_ops.images.masks import feathered, mask_bounds
from inpaint_ops.images.matching import MOST_SHIFT, shifts
from inpaint_ops.images.measures import RING, seam_contrast
from inpaint_ops.images.membrane import membrane
from inpaint_ops.images.placing import Box, Placement
from inpaint_ops.images.reading import Source
from inpaint_ops.images.sharpening import MOST_AMOUNT, sharpening
from inpaint_ops.records import Joining

UNSEEN = 1.25
"""The seam contrast up to which `auto` takes an edge as it is."""
_NEAR = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """How a row's patch shall be joined.

    Attributes:
        blend: `hard` lays the patch down as the mask draws it, gray being a blend; `feather` softens the mask's edge
            inwards; `poisson` adds a smooth sheet to the patch, so that it has the source's own values along the edge;
            `auto` takes the first of hard, poisson and feather whose seam is not seen, by its seam contrast.
        feather: the sigma of `feather` in pixels; 0: a 24th of the root of the mask's area, 2 to 24.
        match: see `matching.shifts`.
        grain: `match` adds noise to the patch where it has less than the ring.
        seed: of the grain.
        alpha: see `composite`.
        sharpen: `match` sharpens the patch where its gradients are smaller than the ring's.
        enlarged: how many times the patch was enlarged before; None: as the placement enlarges it.
    """

    blend: Blend = "hard"
    feather: float = 0.0
    match: Match = "none"
    grain: Grain = "none"
    seed: int = 0
    alpha: Alpha = "fill"
    sharpen: Sharpen = "none"
    enlarged: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """A finished picture.

    Attributes:
        pixels: the shape and dtype of the source's. Where the mask is 0 they are the source's, bit for bit.
        weights: (H, W) uint8: those of the mask, feathered where the patch was.
        how: what was done, for the record.
        box: (x0, y0, x1, y1) of `patch` in the picture: the mask's box and its ring.
        patch: (h, w, 1 or 3) of the source's dtype, what was laid down, before it was weighed; None for an empty mask.
        notes: a sentence for each thing that was asked for and could not be done.
    """

    pixels: np.ndarray
    weights: np.ndarray
    how: Joining
    notes: tuple[str, ...] = ()
    box: Box = (0, 0, 0, 0)
    patch: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Window:
    """The mask's surroundings, as far as any step looks: all arrays have one height and width."""

    source: np.ndarray
    patch: np.ndarray
    weights: np.ndarray
    seen: np.ndarray
    """255 at the pixels of the source that are at least half opaque: the others have no colour to meet."""

    @property
    def ring(self) -> np.ndarray:
        """255 at the seen pixels up to 16 from the mask."""
        near = cv2.bitwise_and(cv2.inRange(self.weights, 0, 0), cv2.dilate(cv2.inRange(self.weights, 1, 255), _NEAR))
        return cv2.bitwise_and(near, self.seen)

    @property
    def band(self) -> np.ndarray:
        """255 at the pixels of the mask up to 16 from the outside."""
        return cv2.bitwise_and(cv2.inRange(self.weights, 1, 255), cv2.dilate(cv2.inRange(self.weights, 0, 0), _NEAR))

    @property
    def colours(self) -> np.ndarray:
        """The source's colour channels, (h, w, 1 or 3)."""
        return self.source[..., None] if self.source.ndim == 2 else self.source[..., : self.patch.shape[2]]


def join(source: Source, mask: np.ndarray, placement: Placement, painted: np.ndarray, options: JoinOptions) -> Joined:
    """Put what was painted into the source: `composite`, with what `options` asks for.

    The order is: match, sharpen, blend, grain. The same arguments give the same pixels. Raises ValueError as
    `composite`.
    """
    patch_box(source, mask, placement, painted)  # checks that they belong together
    pixels, whole = source.pixels.copy(), mask
    if not mask.any():
        return Joined(pixels, mask, Joining())
    place, window = _window(source, mask, placement, painted)
    at = slice(place[1], place[3]), slice(place[0], place[2])
    how, notes = Joining(match=options.match, grain=options.grain, sharpen=options.sharpen), []

    if options.match != "none":
        found = shifts(options.match, window.colours[window.ring > 0], window.patch[window.band > 0])
        if found is None:
            notes.append(f"match {options.match} was left out: the mask or the ring around it has too few pixels")
        else:
            window = replace(window, patch=found.apply(window.patch))
            how = how.model_copy(update={"shift": found.mean})
            if found.is_limited:
                notes.append(f"match {options.match} was limited to {MOST_SHIFT:g} levels of 255")

    if options.sharpen == "match":
        enlargement = options.enlarged or placement.box_size[0] / placement.inner_size[0]
        inside = cv2.inRange(window.weights, 1, 255)
        needed = sharpening(window.colours, window.patch, window.ring, inside, enlargement)
        if needed is None:
            notes.append("sharpen match was left out: the mask or its ring has too few pixels to measure detail")
        else:
            window = replace(window, patch=needed.apply(window.patch))
            how = how.model_copy(update={"sharpened": needed.amount})
            if needed.is_limited:
                notes.append(f"sharpen match was limited to {MOST_AMOUNT:g} times the patch's own fine detail")

    blend, sigma = options.blend, options.feather
    seams: dict[str, float] = {}
    candidates: dict[Blend, _Window] = {}
    if blend == "auto":
        blend, candidates, seams = _best(window, options)
    joined = candidates.get(blend) or _blended(window, blend, options)
    if blend == "feather":
        sigma = options.feather or feather_of(mask)
        if options.blend == "auto" or not options.feather:
            whole = mask.copy()
            whole[at] = joined.weights
    elif blend == "poisson" and not _border(window).any():
        notes.append("blend poisson changed nothing: the mask has no edge inside the picture, or none that is opaque")
    how = how.model_copy(update={"blend": blend, "feather": sigma if blend == "feather" else None, "seams": seams})

    if options.grain == "match":
        inside = cv2.inRange(joined.weights, 1, 255)
        deviation = missing_grain(joined.colours, joined.patch, joined.ring, inside)
        if deviation is None:
            notes.append("grain match was left out: the mask or its ring has too few pixels to measure noise")
        else:
            how = how.model_copy(update={"grain_added": deviation})
            if deviation:
                joined = replace(joined, patch=with_grain(joined.patch, deviation, options.seed))
            if deviation >= MOST_GRAIN:
                notes.append(f"grain match was limited to {MOST_GRAIN:g} levels of 255")
    lay(pixels[at], joined.patch, joined.weights, alpha=options.alpha)
    return Joined(pixels, whole, how, tuple(notes), place, joined.patch)


def feather_of(mask: np.ndarray) -> float:
    """The sigma of a feather whose width is not given: a 24th of the root of the mask's area, 2 to 24 pixels."""
    return float(min(24.0, max(2.0, cv2.countNonZero(mask) ** 0.5 / 24)))


def _window(source: Source, mask: np.ndarray, placement: Placement, painted: np.ndarray) -> tuple[Box, _Window]:
    x0, y0, x1, y1 = mask_bounds(mask)
    x0, y0 = max(0, x0 - RING), max(0, y0 - RING)
    x1, y1 = min(source.width, x1 + RING), min(source.height, y1 + RING)
    left, top, right, bottom = placement.box
    patch = enlarged_patch(source, placement, painted)
    patch = patch[max(0, y0 - top) : y1 - top, max(0, x0 - left) : x1 - left]
    beyond = (max(0, top - y0), max(0, y1 - bottom), max(0, left - x0), max(0, x1 - right))
    patch = np.pad(patch, (beyond[:2], beyond[2:], (0, 0)), mode="edge")
    part = source.pixels[y0:y1, x0:x1]
    if part.ndim == 3 and part.shape[2] in (2, 4):
        seen = (part[..., -1] > np.iinfo(part.dtype).max // 2).astype(np.uint8) * 255
    else:
        seen = np.full(part.shape[:2], 255, np.uint8)
    return (x0, y0, x1, y1), _Window(part, patch, mask[y0:y1, x0:x1], seen)


def _best(window: _Window, options: JoinOptions) -> tuple[Blend, dict[Blend, _Window], dict[str, float]]:
    """The first of hard, poisson and feather whose seam is not seen; else the one with the least.

    Hard comes first, since it changes nothing, and feather last: it shows what was there before through the patch. A
    feathered seam is measured where the mask draws it and where the feather is steepest, and the larger one counts.
    """
    found: dict[Blend, _Window] = {}
    seams: dict[str, float] = {}
    order: tuple[Blend, ...] = ("hard", "poisson", "feather")
    for blend in order:
        found[blend] = _blended(window, blend, options)
        one = found[blend]
        laid = window.source.copy()
        lay(laid, one.patch, one.weights, alpha=options.alpha)
        edges = [window.weights] if one.weights is window.weights else [window.weights, one.weights]
        contrasts = [contrast for edge in edges if (contrast := seam_contrast(laid, edge)) is not None]
        if not contrasts:
            return "hard", found, seams
        seams[blend] = max(contrasts)
        if seams[blend] <= UNSEEN:
            return blend, found, seams
    return min(order, key=lambda blend: seams[blend]), found, seams


def _blended(window: _Window, blend: Blend, options: JoinOptions) -> _Window:
    if blend == "poisson":
        return replace(window, patch=_solved(window))
    if blend == "feather" and (options.blend == "auto" or not options.feather):
        return replace(window, weights=feathered(window.weights, options.feather or feather_of(window.weights)))
    return window  # a feather of a given width has softened the mask before the model saw it


def _border(window: _Window) -> np.ndarray:
    """(h, w) uint8, 255 at the pixels next to the mask whose colour the patch shall meet."""
    next_to = cv2.dilate(cv2.inRange(window.weights, 1, 255), np.ones((3, 3), np.uint8))
    return cv2.bitwise_and(cv2.bitwise_and(next_to, cv2.inRange(window.weights, 0, 0)), window.seen)


def _solved(window: _Window) -> np.ndarray:
    """The patch with the smooth sheet that makes it the source along the mask's edge, rounded."""
    x0, y0, x1, y1 = mask_bounds(window.weights)
    height, width = window.weights.shape
    part = slice(max(0, y0 - 1), min(height, y1 + 1)), slice(max(0, x0 - 1), min(width, x1 + 1))
    border, patch, wanted = _border(window)[part], window.patch[part], window.colours[part]

    def known(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(first, last)
        return border[rows], wanted[rows].astype(np.float32) - patch[rows]

    out, top = window.patch.copy(), np.iinfo(window.patch.dtype).max
    inner = out[part]
    for first, sheet in membrane(border.shape, known):
        rows = slice(first, first + len(sheet))
        inner[rows] = np.clip(np.rint(patch[rows] + sheet), 0, top)
    return out
