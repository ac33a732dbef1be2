"""A demo manifest of real photos with masks, made from the licence-clear photos in scikit-image's wheel.

chelsea, coffee, retina (CC0); astronaut, hubble_deep_field (public domain, NASA); rocket (public domain, SpaceX);
camera, grass, brick, gravel (CC0): see the docstrings of skimage.data. Nothing is copied into this repository.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image, ImageDraw

_DATA = Path(skimage.__file__).parent / "data"


def photo(name: str) -> Image.Image:
    """One of the photos by its file's name. The files are read: `skimage.data` needs scipy, which is not installed."""
    return Image.open(_DATA / name)


def _bytes(image: Image.Image, format_: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **({"quality": 92} if format_ == "JPEG" else {}), **options)
    return buffer.getvalue()


def _mask(size: tuple[int, int], shape: str, box: tuple[float, float, float, float]) -> bytes:
    """White where to paint: an ellipse, a box, or a stroke from corner to corner of `box`, in shares of the size."""
    width, height = size
    mask = Image.new("L", size, 0)
    draw = ImageDraw.Draw(mask)
    pixels = (width * box[0], height * box[1], width * box[2], height * box[3])
    match shape:
        case "ellipse":
            draw.ellipse(pixels, fill=255)
        case "stroke":
            draw.line(pixels, fill=255, width=max(3, width // 30))
        case _:
            draw.rectangle(pixels, fill=255)
    return _bytes(mask, "PNG")


def _rgba() -> Image.Image:
    cat = photo("chelsea.png").convert("RGBA")
    alpha = Image.new("L", cat.size, 255)
    ImageDraw.Draw(alpha).rectangle((0, 0, cat.width, cat.height // 8), fill=64)
    cat.putalpha(alpha)
    return cat


def _sixteen_bit() -> Image.Image:
    return Image.fromarray(np.asarray(photo("brick.png").convert("L")).astype(np.uint16) * 257)


def _rotated() -> bytes:
    """A portrait shot as a camera stores it: the pixels lie on their side, marked by EXIF orientation 6."""
    upright = photo("rocket.jpg").convert("RGB").crop((100, 0, 400, 427))
    exif = Image.Exif()
    exif[0x0112] = 6
    return _bytes(upright.rotate(90, expand=True), "JPEG", exif=exif)


def make_demo(put: Callable[[str, bytes], object], *, seed: int = 7, **defaults: Any) -> bytes:
    """Hand every image and mask to `put(key, data)`, and return the manifest's bytes (JSONL, keys relative to it).

    Each mask covers a thing that is to go: a spoon, a patch on a suit, a tower before the sky. Ten rows: eight photos
    that work (landscape, portrait, EXIF-rotated, RGBA, grayscale, 16-bit), one that must be rejected (an unknown
    field), and one whose image is missing. `defaults` are fields of those that work and name no quality.
    """
    astronaut, coffee = photo("astronaut.png"), photo("coffee.png")
    hubble, camera, grass = photo("hubble_deep_field.jpg"), photo("camera.png"), photo("grass.png")
    portrait = astronaut.crop((80, 0, 400, 512))
    cat = _rgba()
    photos: list[tuple[str, bytes, tuple[int, int], tuple[Any, ...], dict[str, Any]]] = [
        ("coffee.jpg", _bytes(coffee, "JPEG"), coffee.size, ("ellipse", (0.52, 0.57, 0.7, 0.84)),
         {"prompt": "a red saucer"}),
        ("portrait.png", _bytes(portrait, "PNG"), portrait.size, ("ellipse", (0.14, 0.64, 0.42, 0.85)),
         {"prompt": "plain orange fabric", "seed": seed}),
        ("rocket.jpg", _rotated(), (300, 427), ("box", (0.23, 0.26, 0.41, 0.8)), {"prompt": "a clear evening sky"}),
        ("cat.png", _bytes(cat, "PNG"), cat.size, ("stroke", (0.05, 0.55, 0.4, 0.95)),
         {"prompt": "tabby fur", "mask_dilate": 3}),
        ("hubble.jpg", _bytes(hubble, "JPEG"), hubble.size, ("ellipse", (0.68, 0.5, 0.77, 0.6)),
         {"prompt": "a dark sky with faint stars", "crop": "auto"}),
        ("camera.png", _bytes(camera, "PNG"), camera.size, ("box", (0.78, 0.21, 0.87, 0.36)),
         {"prompt": "a grey sky", "quality": "good"}),
        ("grass.webp", _bytes(grass.convert("RGB"), "WEBP", lossless=True), grass.size,
         ("stroke", (0.1, 0.8, 0.9, 0.3)), {"prompt": "grass", "format": "webp", "mask_blur": 2.5}),
        ("brick.png", _bytes(_sixteen_bit(), "PNG"), (512, 512), ("box", (0.3, 0.25, 0.65, 0.6)),
         {"prompt": "a brick pavement", "negative_prompt": "people"}),
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, data, size, shape, wishes in photos:
        stem = Path(name).stem
        put(f"photos/{name}", data)
        put(f"masks/{stem}.png", _mask(size, *shape))
        rows.append(
            {"image": f"photos/{name}", "mask": f"masks/{stem}.png"}
            | ({} if "quality" in wishes else defaults)
            | wishes
        )
    rows.append({"image": "photos/coffee.jpg", "mask": "masks/coffee.png", "promt": "a typo that must be rejected"})
    rows.append({"image": "photos/nowhere.png", "mask": "masks/coffee.png", "prompt": "an image that is missing"})
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def working_rows() -> Iterator[tuple[dict[str, Any], bytes, bytes]]:
    """The demo's eight rows that work: each with the bytes of its image and of its mask."""
    files: dict[str, bytes] = {}
    for line in make_demo(files.__setitem__).splitlines():
        row = json.loads(line)
        if row["image"] in files and "prompt" in row:
            yield row, files[row["image"]], files[row["mask"]]
