"""Have dynamo trace the full-size model as each way of compiling asks: whole graphs, without a break.

On the meta device, since dynamo traces nothing within the modes of the dry card. What it traced is run as it is: there
is no Triton for a card that is not there.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionXLInpaintPipeline, UNet2DConditionModel

from inpaint_ops.model import compiled, recipes, tuned
from inpaint_ops.tuning import Tuning
from tests.support.engine_parts import forget_graphs

MODEL, SIDE = "sdxl-random", 128
WAYS = ("regional", "reduce-overhead", "max-autotune")


def trace(way: str) -> int:
    """Graphs that dynamo made of one UNet step with guidance, and of a decode. Raises where a graph breaks."""
    forget_graphs()
    recipe = recipes.recipe(MODEL)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**recipe.unet).half().eval()
        vae = AutoencoderKL(**recipe.vae).half().eval()
    pipe: Any = StableDiffusionXLInpaintPipeline.__new__(StableDiffusionXLInpaintPipeline)
    pipe.__dict__ |= {"unet": unet, "vae": vae}
    backend, tuned.BACKEND = tuned.BACKEND, "eager"
    before = compiled.figures()["graphs"]
    try:
        tuned._compile(pipe, Tuning.model_validate({"dtype": "float16", "compile": way}))
        with torch.no_grad():
            half = {"device": "meta", "dtype": torch.float16}
            unet(
                torch.empty(2, 9, SIDE, SIDE, **half),
                torch.empty((), device="meta"),
                torch.empty(2, 77, 2048, **half),
                added_cond_kwargs={"text_embeds": torch.empty(2, 1280, **half), "time_ids": torch.empty(2, 6, **half)},
            )
            vae.decode(torch.empty(1, 4, SIDE, SIDE, **half))
    finally:
        tuned.BACKEND = backend
    return int(compiled.figures()["graphs"] - before)
