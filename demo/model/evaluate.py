"""Judge a checkpoint on held-out photographs; `python -m demo.model.judge` is the command.

Every figure is of the hole alone, through StableDiffusionXLInpaintPipeline itself at strength 1, beside OpenCV's Telea
and Navier-Stokes, the mean of a ring around the hole, and the autoencoder's round trip, which bounds what any UNet in
these latents can reach.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from demo.model.examples import cells
from demo.model.photographs import Pixels, held_out, shrink
from demo.model.synthetic import Floats

SIZE = 256
STEPS = (1, 20, 30)
LEAST_PSNR = 25.0
"""dB, of the autoencoder's round trip, at the least."""
MOST_SEAM = 2.0
"""The step across the hole's edge, in times of the photograph's own there, at the most."""
ROUND_TRIP, RING = "the autoencoder's round trip", "the mean of a ring"
CLASSICAL = ("Telea", "Navier-Stokes")


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over all holes. `psnr`: dB of the round trip, a photograph each; `fills`: by name (L1, MSE, seam).

    L1 and MSE: of values 0 to 1, in the hole. Seam: the mean step across the holes' edges over the photographs' own.
    """

    psnr: tuple[float, ...]
    fills: dict[str, tuple[float, float, float]]
    holes: int

    def table(self) -> str:
        """Of the fills, in Markdown."""
        lines = [f"| {name} | {l1:.4f} | {mse:.5f} | {ratio:.2f} |" for name, (l1, mse, ratio) in self.fills.items()]
        return "\n".join([f"| mean over {self.holes} holes | L1 | MSE | seam |", "|---|---|---|---|", *lines])

    def missed(self) -> list[str]:
        """What the gate asks for and the model does not reach, a sentence each."""
        found = []
        if np.mean(self.psnr) < LEAST_PSNR:
            found.append(f"The autoencoder's round trip has {np.mean(self.psnr):.2f} dB, not {LEAST_PSNR}.")
        for name in map(_ours, STEPS):
            l1, mse, ratio = self.fills[name]
            for other in CLASSICAL:
                if mse >= self.fills[other][1]:
                    found.append(f"{name}: MSE {mse:.5f} is not below {other}'s {self.fills[other][1]:.5f}.")
            if l1 >= self.fills[RING][0]:
                found.append(f"{name}: L1 {l1:.4f} is not below a ring's mean, {self.fills[RING][0]:.4f}.")
            if ratio > MOST_SEAM:
                found.append(f"{name}: its seams are {ratio:.2f} times as strong as the photograph, not {MOST_SEAM}.")
        return found


def _ours(steps: int) -> str:
    return f"this model, {steps} step{'s' if steps > 1 else ''}"


def photograph(picture: Pixels) -> Pixels:
    """The middle of a photograph, SIZE x SIZE x 3, shrunk first so that its shorter side is 10 % longer."""
    small = shrink(picture, round(SIZE * 1.1))
    top, left = (small.shape[0] - SIZE) // 2, (small.shape[1] - SIZE) // 2
    return small[top : top + SIZE, left : left + SIZE]


def holes(index: int, rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Three holes for a photograph, SIZE x SIZE: an ellipse or a box, a stroke, and one at random; whole latent cells.

    The pipeline widens a mask to whole cells of the latents, so the figures are of what it paints.
    """
    made = []
    for kind in ("ellipse" if index % 2 else "box", "stroke"):
        mask = Image.new("L", (SIZE, SIZE), 0)
        draw, box = ImageDraw.Draw(mask), (SIZE * 0.3, SIZE * 0.25, SIZE * 0.65, SIZE * 0.6)
        if kind == "ellipse":
            draw.ellipse(box, fill=255)
        elif kind == "box":
            draw.rectangle(box, fill=255)
        else:
            draw.line((SIZE * 0.1, SIZE * 0.8, SIZE * 0.9, SIZE * 0.3), fill=255, width=SIZE // 30)
        made.append((np.asarray(mask) > 127).reshape(SIZE // 8, 8, SIZE // 8, 8).any((1, 3)))
    made.append(cells(rng, SIZE // 8))
    return [hole.repeat(8, 0).repeat(8, 1) for hole in made]


def seam(picture: Floats, hole: NDArray[np.bool_]) -> float:
    """The mean absolute step between neighbouring pixels across the hole's edge, of 255."""
    steps = []
    for axis in (0, 1):
        first, second = (np.take(picture, range(k, SIZE - 1 + k), axis) for k in (0, 1))
        across = np.take(hole, range(SIZE - 1), axis) != np.take(hole, range(1, SIZE), axis)
        steps.append(np.abs(first - second).mean(-1)[across])
    return float(np.concatenate(steps).mean())


def simple_fills(source: Pixels, hole: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """What simple methods put into the hole: SIZE x SIZE x 3, 0 to 255."""
    mask = hole.astype(np.uint8) * 255
    ring = (cv2.dilate(mask, np.ones((17, 17), np.uint8)) > 0) & ~hole
    return {
        RING: np.broadcast_to(source[ring].mean(0), source.shape),
        "Telea": cv2.inpaint(source, mask, 5, cv2.INPAINT_TELEA),
        "Navier-Stokes": cv2.inpaint(source, mask, 5, cv2.INPAINT_NS),
    }


@torch.no_grad()
def round_trip(pipeline: StableDiffusionXLInpaintPipeline, source: Pixels) -> Floats:
    """The photograph through the autoencoder and back, 0 to 255."""
    values = torch.from_numpy(source.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    back = pipeline.vae.decode(pipeline.vae.encode(values).latent_dist.mode()).sample
    pixels: Floats = ((back[0].permute(1, 2, 0).clamp(-1, 1).numpy() + 1) * 127.5).astype(np.float32)
    return pixels


def paint(pipeline: StableDiffusionXLInpaintPipeline, source: Pixels, hole: NDArray[np.bool_], steps: int) -> Floats:
    """The pipeline's own call at strength 1: SIZE x SIZE x 3, 0 to 255."""
    found = pipeline(
        prompt="", image=Image.fromarray(source), mask_image=Image.fromarray(hole.astype(np.uint8) * 255),
        width=SIZE, height=SIZE, num_inference_steps=steps, guidance_scale=1.0, strength=1.0,
        generator=torch.Generator().manual_seed(7), output_type="np",
    ).images[0]  # fmt: skip
    pixels: Floats = (found * 255).astype(np.float32)
    return pixels


def measure(pipeline: StableDiffusionXLInpaintPipeline) -> tuple[Figures, list[list[Pixels]]]:
    """The figures over all held-out photographs; and for each, two rows of the sheet: source, hole, every fill."""
    rng, errors, count = np.random.default_rng(99), defaultdict(list), 0
    rows: list[list[Pixels]] = []
    squared: list[float] = []
    own: list[float] = []
    for index, (_, picture) in enumerate(held_out()):
        source = photograph(picture)
        back = round_trip(pipeline, source)
        squared.append(float(((back - source) ** 2).mean()) / 255**2)
        for number, hole in enumerate(holes(index, rng)):
            count += 1
            own.append(seam(source.astype(np.float32), hole))
            made = simple_fills(source, hole)
            made |= {_ours(steps): paint(pipeline, source, hole, steps) for steps in STEPS}
            made[ROUND_TRIP] = back
            shown = [source, np.where(hole[..., None], np.uint8(128), source)]
            for name, fill in made.items():
                pixels = np.where(hole[..., None], fill, source).astype(np.float32)
                error = (pixels - source)[hole] / 255
                errors[name].append((np.abs(error).mean(), (error**2).mean(), seam(pixels, hole)))
                shown.append(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
            if number != 1:
                rows.append(shown)
    fills = {}
    for name, values in errors.items():
        l1, mse, step = np.array(values).mean(0).tolist()
        fills[name] = (l1, mse, step / float(np.mean(own)))
    return Figures(tuple(-10 * np.log10(squared)), fills, count), rows


def sheet(rows: list[list[Pixels]]) -> Image.Image:
    """Pictures of one size in rows, each half as wide and high."""
    half = SIZE // 2
    lines = [np.hstack([cv2.resize(one, (half, half), interpolation=cv2.INTER_AREA) for one in row]) for row in rows]
    return Image.fromarray(np.vstack(lines).astype(np.uint8))
