"""Makes the pictures of docs/manifest.md: one drawn shape, saved in the ways that people save masks.

    .venv/bin/python docs/masks/make.py

Each is read by tests/images/test_masks_docs.py, so that the page says what the program does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 96, 72
FOLDER = Path(__file__).parent


def shape() -> np.ndarray:
    """A disc and a stroke: (72, 96) bool."""
    image = Image.new("1", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    draw.ellipse((18, 14, 54, 50), fill=1)
    draw.line((50, 56, 84, 22), fill=1, width=7)
    return np.asarray(image)


def photo() -> np.ndarray:
    """Hills under a sky: (72, 96, 3) uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    hills = y > 44 + 6 * np.sin(x / 9)
    sky = np.stack((90 + y, 130 + y, np.full_like(x, 230)), -1)
    land = np.stack((60 + x // 2, 150 - y, 40 + x // 4), -1)
    return np.where(hills[..., None], land, sky).clip(0, 255).astype(np.uint8)


def on(ground: tuple[int, int, int], colour: tuple[int, int, int]) -> Image.Image:
    """The shape in a colour, on an opaque ground."""
    return Image.fromarray(np.where(shape()[..., None], np.uint8(colour), np.uint8(ground)))


def on_transparent(colour: tuple[int, int, int]) -> Image.Image:
    """The shape in a colour, on a transparent ground."""
    alpha = shape() * np.uint8(255)
    return Image.fromarray(np.dstack((np.broadcast_to(np.uint8(colour), (HEIGHT, WIDTH, 3)), alpha)))


def pictures() -> dict[str, Image.Image]:
    """Every picture, by its file's name."""
    white = Image.fromarray(shape() * np.uint8(255))
    label = Image.fromarray(shape().astype(np.uint8)).convert("P")
    label.putdata([int(value) for value in shape().ravel()])
    label.putpalette([0, 0, 0, 128, 0, 0] + [0] * 762)
    classes = on((0, 0, 0), (128, 0, 0))
    ImageDraw.Draw(classes).rectangle((66, 50, 88, 66), fill=(0, 128, 0))
    hole = Image.fromarray(np.dstack((photo(), np.where(shape(), 0, 255).astype(np.uint8))))
    erased = Image.fromarray(np.dstack((np.full((HEIGHT, WIDTH, 3), 255, np.uint8), ~shape() * np.uint8(255))))
    return {
        "white-on-black": white,
        "soft": white.filter(ImageFilter.GaussianBlur(3)),
        "counts-0-and-1": Image.fromarray(shape().astype(np.uint8)),
        "gray-on-gray": on((40, 40, 40), (160, 160, 160)).convert("L"),
        "red-on-black": on((0, 0, 0), (255, 0, 0)),
        "red-on-white": on((255, 255, 255), (255, 0, 0)),
        "label-palette": label,
        "white-on-transparent": on_transparent((255, 255, 255)),
        "black-on-transparent": on_transparent((0, 0, 0)),
        "photo-with-hole": hole,
        "white-with-hole": erased,
        "several-labels": classes,
    }


if __name__ == "__main__":
    for name, picture in pictures().items():
        picture.save(FOLDER / f"{name}.png", optimize=True)
