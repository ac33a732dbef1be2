"""What a row costs its host beside the painting: `python -m bench.row`.

A photograph of scikit-image, enlarged, with grain, and a mask of a ninth of it. Each step of the worker is done on it
as the worker does it, on one thread; shown are medians of the processor's time, in ms. Files are read from memory.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np

from bench.png import photos
from inpaint_ops import images

ROUNDS = 5
_Result = TypeVar("_Result")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(4000, 3000), metavar=("WIDTH", "HEIGHT"), help="pixels")
    width, height = parser.parse_args().size
    cv2.setNumThreads(1)
    photo = cv2.resize(next(itertools.islice(photos(), 1, None)), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(0).normal(0, 2, photo.shape)
    pixels = np.clip(photo + grain, 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255
    sources = {
        "JPEG": images.encode(pixels, format="jpeg", icc=None),
        "PNG": images.encode(pixels, format="png", icc=None),
    }
    drawn = images.encode(mask, format="png", icc=None)
    columns = {name: steps_of(source, drawn) for name, source in sources.items()}
    print(f"| {width * height / 1e6:.1f} MP, CPU ms | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for step in next(iter(columns.values())):
        print(f"| {step} | " + " | ".join(f"{column[step]:.0f}" for column in columns.values()) + " |")
    print("| **together** | " + " | ".join(f"{sum(column.values()):.0f}" for column in columns.values()) + " |")


class Clock:
    """The CPU ms of each step, over all rounds."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    def __call__(self, name: str, step: Callable[..., _Result], *args: Any, **options: Any) -> _Result:
        """What the step returns."""
        began = time.process_time()
        result = step(*args, **options)
        self.times[name].append(1000 * (time.process_time() - began))
        return result


def steps_of(source: bytes, drawn: bytes) -> dict[str, float]:
    """The steps of one row in order, each with the median of its CPU ms."""
    clock = Clock()
    for _ in range(ROUNDS):
        read = clock("read the source", images.decode_source, source, max_pixels=2**30)
        mask = clock("read the mask", images.read_mask, drawn, size=read.size, max_pixels=2**30).weights
        place = clock("place", images.place, read.size, mask, native=1024)
        canvas, _ = clock("to the working size", images.to_working, read, mask, place)
        painted = np.clip(canvas.astype(np.int16) + 20, 0, 255).astype(np.uint8)
        joined = clock("join", images.join, read, mask, place, painted, images.JoinOptions())
        clock("see what changed", images.visible_change, read.pixels, joined.pixels, joined.weights)
        clock("measure", images.measure, joined.pixels, joined.weights)
        written = clock("write the PNG", images.encode, joined.pixels, format="png", icc=None)
        clock("digest", hashlib.sha256, written)
        clock("write the thumbnails", lambda pixels: list(images.thumbnails(pixels)), joined.pixels)
    return {name: statistics.median(took) for name, took in clock.times.items()}


if __name__ == "__main__":
    main()
