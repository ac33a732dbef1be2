"""Masks as people bring them: twenty-four ways to save one drawn shape, each with the weights that it means.

A kind takes a drawn shape, (H, W) bool, and a random generator. It returns the file's bytes and the expected weights,
which follow from the shape alone: nothing here calls the package.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tests.support.pictures import Array, file_of, png, tiff

Kind = Callable[[Array, np.random.Generator], tuple[bytes, Array]]
HEIGHT, WIDTH = 90, 120


def drawn_shape(rng: np.random.Generator) -> Array:
    """A few boxes, ellipses and strokes that leave the frame's border free: (90, 120) bool."""
    image = Image.new("1", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 4))):
        x, y = int(rng.integers(4, WIDTH - 30)), int(rng.integers(4, HEIGHT - 24))
        box = (x, y, x + int(rng.integers(8, 25)), y + int(rng.integers(8, 19)))
        match int(rng.integers(0, 3)):
            case 0:
                draw.rectangle(box, fill=1)
            case 1:
                draw.ellipse(box, fill=1)
            case _:
                draw.line(box, fill=1, width=5)
    return np.asarray(image)


def photo(rng: np.random.Generator) -> Array:
    """A picture of many colours: (90, 120, 3) uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    phase = rng.uniform(0, 6)
    waves = np.stack((120 + 90 * np.sin(x / 13 + phase), 110 + 90 * np.cos(y / 11), (2 * x + 3 * y) % 256), -1)
    return np.clip(waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


def full(shape: Array) -> Array:
    return shape.astype(np.uint8) * 255


def vivid(rng: np.random.Generator) -> Array:
    """A colour that nobody would call gray: (3,) uint8."""
    colour = np.array([rng.integers(200, 256), rng.integers(0, 60), rng.integers(0, 200)], np.uint8)
    return rng.permutation(colour)


def two_levels(low: int, high: int, dtype: type = np.uint8) -> Kind:
    def make(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
        data = np.where(shape, high, low).astype(dtype)
        return (png(data, bits=16) if dtype == np.uint16 else file_of(data)), full(shape)

    return make


def any_two_levels(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    low = int(rng.integers(0, 120))
    return file_of(np.where(shape, int(rng.integers(low + 1, 256)), low).astype(np.uint8)), full(shape)


def paletted(colours: Callable[[np.random.Generator], list[int]]) -> Kind:
    def make(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
        image = Image.fromarray(shape.astype(np.uint8)).convert("P")
        image.putdata(shape.astype(np.uint8).ravel().tolist())
        image.putpalette(colours(rng))
        return file_of(image), full(shape)

    return make


def drawn_on(ground: int) -> Kind:
    def make(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
        return file_of(np.where(shape[..., None], vivid(rng), np.uint8(ground))), full(shape)

    return make


def drawn_on_transparent(colour: Callable[[np.random.Generator], Any]) -> Kind:
    def make(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
        hidden = rng.integers(0, 256, 3)  # what lies under transparent pixels is anybody's guess
        rgb = np.where(shape[..., None], np.asarray(colour(rng)), hidden).astype(np.uint8)
        return file_of(np.dstack((rgb, full(shape)))), full(shape)

    return make


def soft_strokes_on_transparent(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    alpha = blurred(shape, 1.5)
    black = np.zeros((*shape.shape, 3), np.uint8)
    return file_of(np.dstack((black, alpha))), alpha


def photo_with_hole(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    return file_of(np.dstack((photo(rng), 255 - full(shape)))), full(shape)


def gray_photo_with_hole(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    return file_of(np.dstack((photo(rng)[..., 0], 255 - full(shape)))), full(shape)


def black_and_white_with_transparent_parts(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    alpha = np.full(shape.shape, 255, np.uint8)
    alpha[: HEIGHT // 3] = 0
    gray = full(shape)
    gray[alpha == 0] = 255  # what is hidden does not count
    return file_of(np.dstack((gray, alpha))), np.where(alpha > 0, full(shape), 0).astype(np.uint8)


def blurred(shape: Array, sigma: float) -> Array:
    return np.asarray(Image.fromarray(full(shape)).filter(ImageFilter.GaussianBlur(sigma)))


def feathered(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    wide = np.zeros_like(shape)
    wide[15:75, 20:100] = True  # wide enough to be white in the middle
    soft = blurred(wide, float(rng.uniform(1, 6)))
    return file_of(soft), soft


def ground_not_black(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    level = int(rng.integers(1, 16))
    return file_of(np.where(shape, 255, level).astype(np.uint8), "TIFF"), full(shape)


def noisy_ground(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    return file_of(np.where(shape, 255, rng.integers(0, 12, shape.shape)).astype(np.uint8)), full(shape)


def sloping_ground(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    slope = np.linspace(0, int(rng.integers(3, 15)), WIDTH)[None, :]
    return file_of(np.where(shape, 255, slope).astype(np.uint8)), full(shape)


def twelve_bits(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
    return tiff(shape.astype(np.uint16) * 4095), full(shape)


def lossy(first: str, second: str | None = None) -> Kind:
    """Compressed with loss, and saved again where `second` says so."""

    def make(shape: Array, rng: np.random.Generator) -> tuple[bytes, Array]:
        data = file_of(Image.fromarray(full(shape)).convert("RGB"), first, quality=int(rng.integers(60, 96)))
        if second is not None:
            data = file_of(Image.open(BytesIO(data)), second)
        return data, full(shape)

    return make


EXACT: dict[str, Kind] = {
    "white on black": two_levels(0, 255),
    "0 and 1": two_levels(0, 1),
    "1 and 2": two_levels(1, 2),
    "any two levels": any_two_levels,
    "0 and 255 in 16 bits": two_levels(0, 255, np.uint16),
    "0 and 1 in 16 bits": two_levels(0, 1, np.uint16),
    "0 and 65535": two_levels(0, 65535, np.uint16),
    "12 bits in 16": twelve_bits,
    "indices of a gray palette": paletted(lambda rng: [level for index in range(256) for level in [index] * 3]),
    "a label's palette": paletted(lambda rng: [0, 0, 0, *vivid(rng).tolist(), *[0] * 762]),
    "a dark label's palette": paletted(lambda rng: [0, 0, 0, 64, 0, 0, *[0] * 762]),
    "a colour on black": drawn_on(0),
    "a colour on white": drawn_on(255),
    "white on transparent": drawn_on_transparent(lambda rng: (255, 255, 255)),
    "black on transparent": drawn_on_transparent(lambda rng: (0, 0, 0)),
    "a colour on transparent": drawn_on_transparent(vivid),
    "soft black on transparent": soft_strokes_on_transparent,
    "the photo with a hole": photo_with_hole,
    "a gray photo with a hole": gray_photo_with_hole,
    "black, white and transparent": black_and_white_with_transparent_parts,
    "feathered": feathered,
    "a ground that is not quite black": ground_not_black,
    "a noisy ground": noisy_ground,
    "a ground that slopes": sloping_ground,
}
LOSSY: dict[str, Kind] = {
    "JPEG": lossy("JPEG"),
    "JPEG saved again as PNG": lossy("JPEG", "PNG"),
    "JPEG saved again as TIFF": lossy("JPEG", "TIFF"),
    "lossy WebP": lossy("WEBP"),
}
