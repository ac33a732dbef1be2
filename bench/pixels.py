"""What finishing a row costs beside writing its PNG: `python -m bench.pixels`.

A photograph of scikit-image at 1 and 12 megapixels with a mask on a part of it. Each step is timed right before the
writing of the same picture, in pairs; shown are the medians of the processor's times and of the pairs' ratios, on one
thread. The ways to join have the enlarging of what was painted in them.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np

from bench.png import photos
from inpaint_ops import images
from inpaint_ops.images import png

SIZES = ((1024, 1024), (4000, 3000))
PARTS = {"a third of each side": (0.33, 0.67), "nearly all": (0.05, 0.95)}
PAIRS = 5
WAYS = {
    "hard": images.JoinOptions(),
    "feather": images.JoinOptions(blend="feather"),
    "poisson": images.JoinOptions(blend="poisson"),
    "auto": images.JoinOptions(blend="auto"),
    "match mean": images.JoinOptions(match="mean"),
    "match histogram": images.JoinOptions(match="histogram"),
    "sharpen match": images.JoinOptions(sharpen="match"),
    "grain match": images.JoinOptions(grain="match"),
}


def timed(step: Callable[[], object]) -> float:
    """Seconds of the processor."""
    began = time.process_time()
    step()
    return time.process_time() - began


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    photo = next(itertools.islice(photos(), 1, None))
    print("| picture | mask | step | CPU ms | writing the PNG, ms | ratio |\n|---|---|---|---|---|---|")
    for (width, height), (name, (start, end)) in itertools.product(SIZES, PARTS.items()):
        enlarged = cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC)
        grain = np.random.default_rng(0).normal(0, 2, enlarged.shape)
        pixels = np.clip(enlarged + grain, 0, 255).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        mask[int(height * start) : int(height * end), int(width * start) : int(width * end)] = 255
        source = images.Source(pixels, pixels, None, "png", ())
        placement = images.place(source.size, mask, native=1024)
        canvas = images.to_working(source, mask, placement)[0]
        painted = np.clip(canvas.astype(np.int16) + 20, 0, 255).astype(np.uint8)
        steps: dict[str, Callable[[], object]] = {
            "change": partial(images.visible_change, pixels, np.ascontiguousarray(pixels[::-1]), mask),
            "measures": partial(images.measure, pixels, mask),
        }
        for way, options in WAYS.items():
            steps[f"join: {way}"] = partial(images.join, source, mask, placement, painted, options)
        for step, run in steps.items():
            run()
            pairs = [(timed(run), timed(partial(png.write, pixels, icc=None))) for _ in range(PAIRS)]
            own, writing = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"| {width * height / 1e6:.0f} MP | {name} | {step} | {own:.1f} | {writing:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
