"""What a row, a job or a setting may choose of, by name: formats, and the ways to read, fill, paint and join."""

from __future__ import annotations

import posixpath
from typing import Literal, get_args

ImageFormat = Literal["png", "webp", "tiff", "jpeg", "avif", "jxl"]
"""What a finished image may be written as."""

EXTENSIONS: dict[ImageFormat, str] = {
    "png": ".png", "webp": ".webp", "tiff": ".tiff", "jpeg": ".jpg", "avif": ".avif",
    "jxl": ".jxl",
}  # fmt: skip
"""How the names of finished images end."""

RowFormat = ImageFormat | Literal["source"]
"""What a row may ask for: `source` is the format that the ending of its image's name says."""

_OF_ENDING: dict[str, ImageFormat] = {
    ".png": "png", ".apng": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".jpe": "jpeg", ".jfif": "jpeg", ".mpo": "jpeg",
    ".webp": "webp", ".tif": "tiff", ".tiff": "tiff", ".avif": "avif", ".jxl": "jxl",
}  # fmt: skip


def format_like(name: str) -> ImageFormat:
    """The format that a file of this name is written in again; png where its own is not written, or not told."""
    return _OF_ENDING.get(posixpath.splitext(name)[1].lower(), "png")


MaskChannel = Literal["auto", "luma", "alpha", "red", "green", "blue"]
"""What of a mask file counts."""

Chroma = Literal["444", "422", "420"]
"""How a JPEG or an AVIF keeps colour: at full size, at half the width, or at half the width and height."""

Scheduler = Literal[
    "model", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "ddim", "heun", "unipc", "euler_trailing",
    "ddim_trailing", "lcm",
]  # fmt: skip
"""How the denoising steps are taken; `model`: as the model's own configuration has it (SDXL inpainting: euler). The
last three are for few steps: `trailing` begins at pure noise.
"""

FewStep = Literal["lcm", "lightning", "hyper"]
"""Whose way of painting in few steps, which a LoRA or a model was trained for."""

Provenance = Literal["full", "mark", "off"]
"""What an image says of its making: all, only that a model has painted in it and which, or nothing."""

PromptSyntax = Literal["plain", "weighted"]
"""What brackets in a prompt are: words, or weights in the notation of AUTOMATIC1111's web UI."""


Blend = Literal["hard", "feather", "poisson", "auto"]
"""How a painted patch meets its surroundings."""

Match = Literal["none", "mean", "histogram"]
"""How the colour of a patch is brought nearer to its surroundings."""

Grain = Literal["none", "match"]
"""Whether the noise of a patch is brought up to that of its surroundings."""

Sharpen = Literal["none", "match"]
"""Whether a patch is sharpened to the detail of its surroundings."""

Fill = Literal["original", "noise", "mean", "telea", "lama"]
"""What the masked area holds before it is encoded."""

CudaWait = Literal["sleep", "spin"]
"""How a worker waits for its card."""

CLIP_MODEL_CURE = (
    "give --clip-model a folder with a CLIP model as transformers saves it, such as that of "
    "`hf download openai/clip-vit-large-patch14 --local-dir FOLDER`"
)
"""What to do where the model of the CLIP score is missing or unfit."""

LPIPS_MODEL_CURE = "give --lpips-model an LPIPS network in ONNX (docs/measures.md says how to make one)"
"""What to do where the network of the LPIPS distance is missing or unfit."""

FILL_MODEL_CURE = "give --fill-model a LaMa in ONNX, such as OpenCV's inpainting_lama_2025jan.onnx"
"""What to do where the network of the fill `lama` is missing or unfit."""


SideProduct = Literal["patch", "mask", "preview"]
"""A file beside a finished image: the patch alone with alpha, the mask as it was used, before and after in one picture.
"""


SIDE_PRODUCTS: tuple[SideProduct, ...] = get_args(SideProduct)
"""In the order in which they are listed everywhere."""


def list_side_products(value: object) -> tuple[SideProduct, ...]:
    """A list, or a text with commas; `none` is none of them. Each once, in one order. Raises ValueError."""
    if isinstance(value, str):
        value = [] if value.strip().lower() == "none" else [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"list some of {', '.join(SIDE_PRODUCTS)}, or write none")
    for one in value:
        if one not in SIDE_PRODUCTS:
            raise ValueError(f"{str(one)[:50]!r} is none of {', '.join(SIDE_PRODUCTS)}: list some of these")
    return tuple(one for one in SIDE_PRODUCTS if one in value)
