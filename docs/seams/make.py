"""Makes the tables and pictures of docs/seams.md: the demo's photos, painted by the demo's model, joined in each way.

    .venv/bin/python -m docs.seams.make

The photos are scikit-image's. What was painted is the same in each row; only how it is joined differs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from demo.photos import working_rows
from inpaint_ops import images
from inpaint_ops.model.own_models import demo_folder

FOLDER = Path(__file__).parent
NATIVE = 256
WAYS = {
    "hard": images.JoinOptions(),
    "feather": images.JoinOptions(blend="feather"),
    "poisson": images.JoinOptions(blend="poisson"),
    "auto": images.JoinOptions(blend="auto"),
    "match mean": images.JoinOptions(match="mean"),
    "match histogram": images.JoinOptions(match="histogram"),
    "grain": images.JoinOptions(grain="match", seed=7),
    "sharpen": images.JoinOptions(sharpen="match"),
    "poisson, grain": images.JoinOptions(blend="poisson", grain="match", seed=7),
    "auto, match mean, grain": images.JoinOptions(blend="auto", match="mean", grain="match", seed=7),
    "poisson, sharpen, grain": images.JoinOptions(blend="poisson", sharpen="match", grain="match", seed=7),
}
SHOWN = ("hard", "feather", "poisson", "match mean", "poisson, grain")
PICTURES = ("coffee", "rocket", "camera")


@dataclass(frozen=True, slots=True)
class Painted:
    """A photo of the demo, and what the model painted of it."""

    name: str
    source: images.Source
    mask: np.ndarray
    placement: images.Placement
    canvas: np.ndarray

    @property
    def box_mask(self) -> np.ndarray:
        """A mask of all that the model was shown."""
        mask = np.zeros_like(self.mask)
        left, top, right, bottom = self.placement.box
        mask[top:bottom, left:right] = 255
        return mask

    def joined(self, options: images.JoinOptions) -> images.Joined:
        """The finished picture."""
        return images.join(self.source, self.mask, self.placement, self.canvas, options)


def paint_demo() -> Iterator[Painted]:
    """The demo's eight photos that work, each painted as its worker would."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from diffusers import StableDiffusionXLInpaintPipeline

    pipe: Any = StableDiffusionXLInpaintPipeline.from_pretrained(
        str(demo_folder()), variant="fp16", torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    for row, image, drawn in working_rows():
        source = images.decode_source(image, max_pixels=10**8)
        mask = images.decode_mask(drawn, size=source.size, max_pixels=10**8, dilate=row.get("mask_dilate", 0))
        placement = images.place(source.size, mask, native=NATIVE, crop=row.get("crop", "none"))
        rgb, working = images.to_working(source, mask, placement)
        width, height = placement.working
        canvas = pipe(
            prompt="", image=Image.fromarray(rgb), mask_image=Image.fromarray(working), width=width, height=height,
            num_inference_steps=2, strength=1.0, guidance_scale=1.0, generator=torch.Generator("cpu").manual_seed(0),
        ).images[0]  # fmt: skip
        yield Painted(Path(row["image"]).stem, source, mask, placement, np.asarray(canvas))


def multi_band(row: Painted, levels: int = 5) -> np.ndarray:
    """For comparison, as it is not offered: a multi-band blend (Burt and Adelson, 1983) inside the mask.

    The Laplacian pyramids of source and patch are mixed by the mask's Gaussian pyramid; outside it is the source.
    """
    x, y, width, height = cv2.boundingRect(row.mask)
    reach = 2**levels
    part = (
        slice(max(0, y - reach), min(row.source.height, y + height + reach)),
        slice(max(0, x - reach), min(row.source.width, x + width + reach)),
    )
    patch = row.source.pixels.copy()
    left, top, right, bottom = row.placement.box
    patch[top:bottom, left:right] = images.composite(row.source, row.box_mask, row.placement, row.canvas, alpha="keep")[
        top:bottom, left:right
    ]
    scale = float(np.iinfo(patch.dtype).max)
    now, before = (pixels[part].astype(np.float32) / scale for pixels in (patch, row.source.pixels))
    share = (row.mask[part] > 0).astype(np.float32)
    bands = []
    for _ in range(levels):
        smaller = [cv2.pyrDown(one) for one in (now, before, share)]
        size = now.shape[1::-1]
        fine = [one - cv2.pyrUp(low, dstsize=size) for one, low in zip((now, before), smaller, strict=False)]
        bands.append(mixed(fine[0], fine[1], share))
        now, before, share = smaller
    out = mixed(now, before, share)
    for fine_band in reversed(bands):
        out = fine_band + cv2.pyrUp(out, dstsize=fine_band.shape[1::-1])
    pixels = row.source.pixels.copy()
    inside = row.mask[part] > 0
    pixels[part][inside] = np.clip(np.rint(out * scale), 0, scale).astype(pixels.dtype)[inside]
    return pixels


def mixed(one: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """So much of the one, the rest of the other."""
    weights = share if one.ndim == 2 else share[..., None]
    return one * weights + other * (1 - weights)


def table(rows: list[Painted]) -> Iterator[str]:
    """The measures of each way, in the median over the photos."""
    yield "| joined by | seam contrast | largest | colour shift | sharpness | grain |"
    yield "|---|---|---|---|---|---|"
    for name, options in [*WAYS.items(), ("multi-band, for comparison", None)]:
        found = []
        for row in rows:
            joined = row.joined(options or images.JoinOptions())
            found.append(images.measure(joined.pixels if options else multi_band(row), joined.weights))
        columns = [
            np.array([getattr(one, field) for one in found])
            for field in ("seam_contrast", "colour_shift", "sharpness_ratio", "grain_ratio")
        ]
        seam, shift, sharpness, grain = (float(np.median(column)) for column in columns)
        yield f"| {name} | {seam:.2f} | {columns[0].max():.2f} | {shift:.1f} | {sharpness:.2f} | {grain:.2f} |"


def by_photo(rows: list[Painted]) -> Iterator[str]:
    """The seam contrast of each photo."""
    yield "| photo | " + " | ".join(WAYS) + " | auto chose |"
    yield "|---|" + "---|" * (len(WAYS) + 1)
    for row in rows:
        joined = {name: row.joined(options) for name, options in WAYS.items()}
        seams = [images.measure(one.pixels, one.weights).seam_contrast or 0 for one in joined.values()]
        yield f"| {row.name} | " + " | ".join(f"{seam:.2f}" for seam in seams) + f" | {joined['auto'].how.blend} |"


def picture(row: Painted) -> Image.Image:
    """What is around the mask, joined in each of the shown ways, side by side."""
    x, y, width, height = cv2.boundingRect(row.mask)
    side = max(width, height) * 3 // 2
    left = min(max(0, x + width // 2 - side // 2), max(0, row.source.width - side))
    top = min(max(0, y + height // 2 - side // 2), max(0, row.source.height - side))
    part = slice(top, top + side), slice(left, left + side)
    size = 220
    out = Image.new("RGB", (size * (len(SHOWN) + 1), size + 16), "white")
    shown = {"source": row.source.rgb} | {name: row.joined(WAYS[name]).pixels for name in SHOWN}
    for at, (name, pixels) in enumerate(shown.items()):
        crop = Image.fromarray(np.ascontiguousarray(pixels[part]))
        out.paste(crop.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), (at * size, 16))
        ImageDraw.Draw(out).text((at * size + 4, 2), name, fill="black")
    return out


def main() -> None:
    """Print the tables and write the pictures."""
    rows = list(paint_demo())
    print("\n".join((*table(rows), "", *by_photo(rows))))
    for row in rows:
        if row.name in PICTURES:
            picture(row).save(FOLDER / f"{row.name}.jpg", quality=88)


if __name__ == "__main__":
    main()
