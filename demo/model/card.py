"""The model card that lies beside the weights: what the model is, how it was judged, and what it learned from."""

from __future__ import annotations

import numpy as np

from demo.model.evaluate import Figures
from demo.model.photographs import PHOTOS

_CARD = """# The demo model

A StableDiffusionXLInpaintPipeline of 2.3 million parameters, so that the demo and the tests paint something sober
without a download: colours, light and large edges go on into the hole; texture does not. It is no replacement for SDXL.

- Native size 256 pixels, factor 8, nine channels, two text encoders. Weights in float16, under 5 MB.
- The UNet predicts the clean latents from the mask and the masked picture alone. Prompt, guidance, seed, noise and the
  number of steps have no effect. The schedulers `euler_a` and `heun` cannot serve it: for such a model diffusers has no
  formula for them.
- Trained by `make demo-model`: `demo/model` has the code, the synthetic pictures among it. {trained}
- Licence: as the project's, Apache-2.0. The photographs below are not part of it.

## Figures

By `python -m demo.model.judge`, of the holes alone, on scikit-image's photographs, which no training saw. Strength 1,
values 0 to 1. Seam: the step across the hole's edge, in times of the photograph's own there.

The autoencoder's round trip has {psnr:.2f} dB ({least:.1f} to {most:.1f} over {count} photographs).

{table}

{gate}

The photographs, their holes, a ring's mean, Telea, Navier-Stokes, this model with 1, 20 and 30 steps, and the
autoencoder's round trip: `docs/images/demo-model.jpg`.

## What it learned from

Synthetic pictures (dead leaves, grounds, horizons, grids in perspective; colours drawn from the photographs), and these
photographs, none of which asks for the same licence in turn:

{photographs}
"""


def card(figures: Figures, trained: str) -> str:
    """The card, in Markdown. `trained`: on what, and for how long."""
    psnr = figures.psnr
    lines = [f"| {photo.name} | {photo.author} | {photo.licence} | `{photo.sha256}` |" for photo in PHOTOS]
    gate = (
        "Every figure that was aimed at is reached."
        if not figures.missed()
        else "Not reached:\n\n" + "\n".join(f"- {text}" for text in figures.missed())
    )
    return _CARD.format(
        psnr=np.mean(psnr), least=min(psnr), most=max(psnr), count=len(psnr), table=figures.table(), gate=gate,
        trained=trained,
        photographs="\n".join(["| photograph | author | licence | SHA-256 |", "|---|---|---|---|", *lines]),
    )  # fmt: skip
