"""What a mask file means: which channel of it says where to paint, and how.

White is painted and black is kept. Beside such masks people bring strokes drawn in a colour, label colours, strokes on
a transparent ground, and the photo itself with a transparent hole. What a file means is found out from its content and
stated in one sentence; what could mean two things is refused, with the fields that decide it.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from PIL import Image

from inpaint_ops.errors import MaskError
from inpaint_ops.images.mask_levels import NOISE, over_threshold, read_levels, to_levels
from inpaint_ops.images.reading import Pixels

MaskChannel = Literal["auto", "luma", "alpha", "red", "green", "blue"]
"""What of a mask counts. `luma` and the colours count whatever the alpha; `alpha` is white where it is opaque."""

_COLOURS = ("red", "green", "blue")
_CHROMA = 40
"""A pixel is coloured when its channels differ by more than this, of 255: lossy formats tint gray by less."""
_FAR = 40
"""Two colours are different when a channel differs by more than this."""
_OFF_THE_LINE = 48
"""How far from every blend of two colours a channel may be before the pixel counts as of a third colour."""
_COLOURED_SHARE = 0.005
_THIRD_SHARE, _THIRD_PIXELS = 0.02, 9
"""A third colour is one that this share, and this number, of the drawn pixels have in common."""
_MIXED_SHARE = 0.25
_ONE_COLOUR, _ONE_COLOUR_WIDTH = 0.98, 24
"""Opaque pixels are of one colour when this share of them lies within this many levels of their median."""
_SAMPLE = 1 << 16
"""Pixels from which a median is taken, about."""
_STRIPE = 1 << 18
"""Pixels compared at a time: bounds the memory."""
_BLACK_AND_WHITE = 0.9
_FEW_COLOURS = 8
"""A drawing has at most this many colours (of 4096) for 95 % of its pixels; a photo has more."""


def weights_of(
    picture: Pixels, *, channel: MaskChannel = "auto", threshold: int | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The weights that a decoded mask means, before it is inverted or shaped.

    Args:
        picture: of `read_pixels`.
        channel: what of it counts; "auto" finds it out.
        threshold: None finds out what the levels mean; 1 to 255: levels from there on are white, all others black;
            0: the levels are weights, as they stand. Levels are counted as `to_levels` does, from 0 to 255.

    Returns:
        weights: (H, W) uint8, 0 keeps the source, 255 is wholly painted; all 0 where nothing is masked.
        conversions: a sentence for each reading beyond "white is painted and black is kept".

    Raises MaskError, naming the level, the colour or the alpha, for a mask that could mean two things.
    """
    conversions: list[str] = []
    plane = _auto(picture.array, conversions) if channel == "auto" else _named(picture.array, channel, conversions)
    if threshold:
        plane = over_threshold(plane, threshold)
    elif threshold is None:
        plane = read_levels(plane, conversions, is_lossy=picture.format == "jpeg")
    return plane, tuple(conversions)


def _named(array: np.ndarray, channel: MaskChannel, conversions: list[str]) -> np.ndarray:
    has_alpha = array.ndim == 3 and array.shape[2] in (2, 4)
    if channel == "alpha":
        if not has_alpha:
            raise MaskError("the mask has no alpha channel: leave out mask_channel, or give luma")
        plane = to_levels(np.ascontiguousarray(array[..., -1]), conversions)
        if plane.min() == plane.max():
            raise MaskError(
                f"the mask's alpha is {int(plane[0, 0])} everywhere, so it does not say where to paint: "
                "leave out mask_channel, or give luma"
            )
        return plane
    colour = _colour(array, conversions)
    if channel == "luma":
        return _luma(colour)
    if colour.ndim == 2:
        return colour
    plane = np.ascontiguousarray(colour[..., _COLOURS.index(channel)])
    if plane.min() == plane.max() and colour.min() != colour.max():
        raise MaskError(
            f"the mask's {channel} channel is {int(plane[0, 0])} everywhere, so it does not say where to paint: "
            "give another mask_channel"
        )
    return plane


def _auto(array: np.ndarray, conversions: list[str]) -> np.ndarray:
    colour = _colour(array, conversions)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        alpha = to_levels(np.ascontiguousarray(array[..., -1]), conversions)
        if (plane := _by_alpha(colour, alpha, conversions)) is not None:
            return plane
    return _by_colour(colour, conversions) if colour.ndim == 3 else colour


def _colour(array: np.ndarray, conversions: list[str]) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 without alpha. All channels are counted alike, so that a colour stays the same."""
    if array.ndim == 2 or array.shape[2] == 2:
        return to_levels(np.ascontiguousarray(array if array.ndim == 2 else array[..., 0]), conversions)
    height, width = array.shape[:2]
    rgb = np.ascontiguousarray(array[..., :3])
    return to_levels(rgb.reshape(height, width * 3), conversions).reshape(height, width, 3)


def _luma(colour: np.ndarray) -> np.ndarray:
    """Rec. 601, as Pillow: L = 0.299 R + 0.587 G + 0.114 B."""
    return colour if colour.ndim == 2 else np.asarray(Image.fromarray(colour).convert("L"))


# ------------------------------------------------------------------------------------------------------------ alpha


def _by_alpha(colour: np.ndarray, alpha: np.ndarray, conversions: list[str]) -> np.ndarray | None:
    """The plane that a mask with transparent pixels means; None where its alpha says nothing."""
    low, high = int(alpha.min()), int(alpha.max())
    if high == 0:
        raise MaskError(
            "the mask is wholly transparent: draw on it what to replace, or give mask_channel luma to count its "
            "colours whatever the alpha"
        )
    if low >= 255 - NOISE:
        return None
    if low == high:
        conversions.append(f"the mask's alpha is {low} everywhere: it does not count")
        return None
    opaque = alpha >= (high + 1) // 2
    seen = colour[opaque].reshape(-1, 1 if colour.ndim == 2 else 3)
    middle = _median(seen)
    is_one_colour = np.mean((np.abs(seen - middle) <= _ONE_COLOUR_WIDTH).all(axis=1)) >= _ONE_COLOUR
    if is_one_colour:
        return _drawn_on_transparent(alpha, opaque, middle, conversions)
    luma = _luma(colour)
    if np.mean(_is_black_or_white(seen)) >= _BLACK_AND_WHITE:
        conversions.append("what is transparent in the mask counts as black")
        return cv2.multiply(luma, alpha, scale=1 / 255)
    if _number_of_colours(seen) <= _FEW_COLOURS:
        raise MaskError(
            "the mask is drawn in several colours and is transparent elsewhere: give mask_channel alpha to paint what "
            "is drawn, and mask_invert too to paint what is transparent"
        )
    conversions.append(
        "the mask is a picture with a transparent part: what is transparent is painted (mask_invert: what is opaque)"
    )
    return 255 - alpha


def _drawn_on_transparent(
    alpha: np.ndarray, opaque: np.ndarray, colour: np.ndarray, conversions: list[str]
) -> np.ndarray:
    name = _name(colour)
    if _share_of_border(opaque) > 0.5:
        raise MaskError(
            f"the mask is {name} with a transparent part, and its alpha could mean either: give mask_channel alpha to "
            "paint what is opaque, and mask_invert too to paint what is transparent"
        )
    if colour.min() < 255 - NOISE:
        conversions.append(f"the mask is drawn in {name} on a transparent ground: what is opaque counts as white")
    return alpha


def _is_black_or_white(seen: np.ndarray) -> np.ndarray:
    either: np.ndarray = (seen.max(axis=1) <= NOISE) | (seen.min(axis=1) >= 255 - NOISE)
    return either


def _number_of_colours(seen: np.ndarray) -> int:
    """How many colours of 4 bits per channel it takes for 95 % of the pixels."""
    counts = np.sort(np.bincount(_bins(seen.astype(np.uint8)), minlength=4096))[::-1]
    return int(np.searchsorted(np.cumsum(counts), 0.95 * len(seen)) + 1)


# ----------------------------------------------------------------------------------------------------------- colour


def _by_colour(rgb: np.ndarray, conversions: list[str]) -> np.ndarray:
    """The plane that an opaque RGB mask means: its luma, or how much a pixel has of the one colour drawn with."""
    red, green, blue = cv2.split(rgb)  # several times quicker than along the last axis
    chroma = cv2.max(cv2.max(red, green), blue) - cv2.min(cv2.min(red, green), blue)
    if chroma.max() <= _CHROMA:
        return _luma(rgb)
    bins = _bins(rgb.reshape(-1, 3)).reshape(rgb.shape[:2])
    first = _commonest(rgb, bins, np.ones(bins.shape, bool))
    far = _distance(rgb, first) > _FAR
    drawn = int(np.count_nonzero(far))
    coloured = np.count_nonzero(chroma > _CHROMA)
    if coloured < _COLOURED_SHARE * max(1, drawn) and np.ptp(first) <= _CHROMA:
        return _luma(rgb)
    if not drawn:
        raise MaskError(
            f"the mask is {_name(first)} everywhere, so it does not say where to paint: "
            "paint what to replace in white on black"
        )
    second = _commonest(rgb, bins, far)
    off, share = _off_the_line(rgb, first, second)
    third = int(np.bincount(bins[off]).max()) if off.any() else 0
    if third >= max(_THIRD_PIXELS, _THIRD_SHARE * drawn) or np.count_nonzero(off) > _MIXED_SHARE * drawn:
        raise MaskError(_several_colours(rgb, bins))
    neutral = [np.ptp(colour) <= _CHROMA for colour in (first, second)]
    if all(neutral):
        return _luma(rgb)
    if not any(neutral):
        raise MaskError(
            f"the mask has two colours, {_name(first)} and {_name(second)}: draw in white on black, or give "
            f"mask_channel {_telling(first, second)} to paint where that channel is bright"
        )
    ground, colour = (first, second) if neutral[0] else (second, first)
    plane = share if neutral[0] else 255 - share
    if ground.max() > 2 * NOISE and _share_of_border(plane >= 128) > 0.5:
        raise MaskError(
            f"the mask is {_name(ground)} and {_name(colour)}, and either could be painted: draw in white on black, or "
            f"give mask_channel {_telling(ground, colour)} to paint where that channel is bright, "
            "and mask_invert too to paint where it is dark"
        )
    conversions.append(f"the mask is drawn in {_name(colour)} on {_name(ground)}: {_name(colour)} counts as white")
    return plane


def _bins(pixels: np.ndarray) -> np.ndarray:
    """(N,) bins of 4 bits per channel, of (N, 1 or 3) uint8."""
    parts = (pixels >> 4).astype(np.uint16)
    if parts.shape[1] == 1:
        return parts[:, 0]
    return (parts[:, 0] << 8) | (parts[:, 1] << 4) | parts[:, 2]


def _commonest(rgb: np.ndarray, bins: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The colour that most of these pixels have: (3,) int16."""
    most = np.bincount(bins[where]).argmax()
    return _median(rgb[where & (bins == most)])


def _median(pixels: np.ndarray) -> np.ndarray:
    """The colour in the middle, channel by channel: (C,) int16 of (N, C) uint8, of a sample where they are many."""
    middle: np.ndarray = np.median(pixels[:: 1 + len(pixels) // _SAMPLE], axis=0).astype(np.int16)
    return middle


def _distance(rgb: np.ndarray, colour: np.ndarray) -> np.ndarray:
    scalar = (*(float(value) for value in colour), 0.0)
    red, green, blue = cv2.split(cv2.absdiff(rgb, scalar))  # type: ignore[call-overload]
    return cv2.max(cv2.max(red, green), blue)


def _off_the_line(rgb: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a pixel is no blend of the two colours, and how much it has of the second: (H, W) bool, (H, W) uint8."""
    line = (second - first).astype(np.float32)
    off, share = np.empty(rgb.shape[:2], bool), np.empty(rgb.shape[:2], np.uint8)
    rows = max(1, _STRIPE // rgb.shape[1])
    for y in range(0, len(rgb), rows):
        offset = rgb[y : y + rows].astype(np.float32) - first
        part = np.clip(offset @ line / float(line @ line), 0, 1)
        apart = np.abs(offset - part[..., None] * line) > _OFF_THE_LINE
        off[y : y + rows] = apart[..., 0] | apart[..., 1] | apart[..., 2]
        share[y : y + rows] = np.rint(part * 255)
    return off, share


def _several_colours(rgb: np.ndarray, bins: np.ndarray) -> str:
    counts = np.bincount(bins.ravel(), minlength=4096)
    common = [int(one) for one in np.argsort(-counts, kind="stable")[:4] if counts[one] >= 0.005 * bins.size]
    names = ", ".join(_name(_median(rgb[bins == one])) for one in common)
    return (
        f"the mask has several colours ({names or 'as a photo has'}), so it does not say what to paint: draw what to "
        "replace in white on black, or give mask_channel red, green or blue and a mask_threshold, from which on that "
        "channel is painted"
    )


def _telling(first: np.ndarray, second: np.ndarray) -> str:
    """The channels that distinguish two colours, the best first."""
    apart = np.abs(first - second)
    names = [_COLOURS[index] for index in np.argsort(-apart, kind="stable") if apart[index] > _FAR]
    return " or ".join(names)


def _name(colour: np.ndarray) -> str:
    """What to call a colour: black, white, or its hexadecimal code."""
    if colour.max() <= NOISE:
        return "black"
    if colour.min() >= 255 - NOISE:
        return "white"
    red, green, blue = (int(value) for value in (colour if len(colour) == 3 else [colour[0]] * 3))
    return f"#{red:02x}{green:02x}{blue:02x}"


def _share_of_border(where: np.ndarray) -> float:
    """Which share of the frame's outermost pixels an (H, W) bool array has."""
    edges = (where[0], where[-1], where[:, 0], where[:, -1])
    return float(np.concatenate(edges).mean())
