"""What a PNG costs: `python -m bench.png` writes photographs with each encoder, and prints its time and size.

The photographs are scikit-image's. Times are of the processor, the least of three, so that what else runs on the
machine weighs little; figures are per 12 megapixels.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

from demo.photos import photo
from inpaint_ops.images import png

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "hubble_deep_field.jpg", "ihc.png")
MEGAPIXELS = 12


def photos() -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 each."""
    for name in PHOTOS:
        with photo(name) as picture:
            yield np.asarray(picture.convert("RGB"))


def _pillow(level: int) -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
        return buffer.getvalue()

    return encode


def _opencv(level: int) -> Callable[[np.ndarray], bytes]:
    options = [cv2.IMWRITE_PNG_COMPRESSION, level]
    return lambda pixels: cv2.imencode(".png", pixels[..., ::-1], options)[1].tobytes()


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "ours, fast": lambda pixels: png.write(pixels, icc=None),
    "ours, small": lambda pixels: png.write(pixels, icc=None, effort="small"),
    "OpenCV, level 1": _opencv(1),
    "OpenCV, level 3": _opencv(3),
    "Pillow, level 1": _pillow(1),
    "Pillow, level 3": _pillow(3),
    "Pillow, level 6": _pillow(6),
}


def main() -> None:
    """Print the table."""
    images = list(photos())
    scale = MEGAPIXELS * 1e6 / sum(image.shape[0] * image.shape[1] for image in images)
    print(f"{len(images)} photographs")
    print("| encoder | CPU s | MB |\n|---|---|---|")
    for name, encode in ENCODERS.items():
        seconds, size = 0.0, 0
        for image in images:
            times = []
            for _ in range(3):
                began = time.process_time()
                data = encode(image)
                times.append(time.process_time() - began)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
            seconds, size = seconds + min(times), size + len(data)
        print(f"| {name} | {seconds * scale:.2f} | {size * scale / 1e6:.1f} |")


if __name__ == "__main__":
    main()
