"""The figures of a checkpoint: `python -m demo.model.judge MODEL`. Exit code 1 where they do not reach the gate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline

from demo.model.card import card
from demo.model.evaluate import measure, sheet
from demo.model.export import CARD


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m demo.model.judge", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sheet", type=Path, help="a picture of all photographs and fills")
    parser.add_argument("--card", action="store_true", help="write the model card into the folder")
    parser.add_argument("--trained", default="", help="for the card: on what, and for how long")
    arguments = parser.parse_args()
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(
        str(arguments.model), variant="fp16", torch_dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    figures, rows = measure(pipeline)
    psnr = figures.psnr
    print(f"autoencoder: {np.mean(psnr):.2f} dB over {len(psnr)} photographs ({min(psnr):.1f} to {max(psnr):.1f})\n")
    print(figures.table())
    print("\n" + ("\n".join(figures.missed()) or "The gate is reached."))
    if arguments.card:
        (arguments.model / CARD).write_text(card(figures, arguments.trained), encoding="utf-8")
    if arguments.sheet:
        sheet(rows).save(arguments.sheet, quality=75)
    return 1 if figures.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
