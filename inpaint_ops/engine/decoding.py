"""Latents -> images, each checked, and decoded again in float32 where it is broken."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inpaint_ops.engine.batching import PaintItem
from inpaint_ops.engine.output_checks import dtypes_of, find_fault
from inpaint_ops.errors import InpaintOpsError
from inpaint_ops.model.torch_errors import is_device_lost
from inpaint_ops.protocol import unit_name

log = logging.getLogger(__name__)

Decoded = tuple[NDArray[np.uint8], InpaintOpsError | None, tuple[str, ...]]
"""An image (height, width, 3) uint8, what is wrong with it, and what was done differently from the request."""


def decode_checked(pipe: Any, latents: torch.Tensor, rows: Sequence[PaintItem]) -> list[Decoded]:
    """One image per row of `latents` (batch, 4, height / 8, width / 8), scaled; those beyond the rows are dropped.

    May leave the VAE in float32: the caller casts it back.
    """
    images, finite = _decode(pipe.vae, latents)
    was = dtypes_of(pipe)
    decoded: list[Decoded] = [
        (image, find_fault(image, is_finite, row, was), ())
        for image, is_finite, row in zip(images, finite, rows, strict=False)
    ]
    bad = [at for at, (_, error, _) in enumerate(decoded) if error and bool(torch.isfinite(latents[at]).all())]
    if not bad or pipe.vae.dtype == torch.float32:
        return decoded
    try:
        pipe.vae.to(torch.float32)
        with torch.compiler.set_stance("force_eager"):  # compiled graphs are for the dtype that the VAE had
            images, finite = _decode(pipe.vae, latents[bad])
    except Exception as error:  # no memory: what was wrong at first stands
        if is_device_lost(error):
            raise
        log.warning("decoding again in float32 failed: %s", error)
        return decoded
    note = f"decoded again in float32, since the first patch was not finite or flat ({was})"
    for at, image, is_finite in zip(bad, images, finite, strict=True):
        if find_fault(image, is_finite, rows[at], was) is None:
            log.warning("row %s was %s", unit_name(rows[at].row), note)
            decoded[at] = image, None, (note,)
    return decoded


def _decode(vae: Any, latents: torch.Tensor) -> tuple[list[NDArray[np.uint8]], list[bool]]:
    """Images (height, width, 3) uint8 of latents, and whether each is finite.

    As the end of StableDiffusionXLInpaintPipeline.__call__ (diffusers 0.42.1), less its watermark. The VAE does
    slicing and tiling itself.
    """
    if vae.config.force_upcast and vae.dtype == torch.float16:
        vae.to(torch.float32)  # the SDXL VAE overflows in float16
    latents = latents.to(vae.dtype)
    mean, std = vae.config.get("latents_mean"), vae.config.get("latents_std")
    if mean is not None and std is not None:
        mean = torch.tensor(mean).view(1, -1, 1, 1).to(latents)
        std = torch.tensor(std).view(1, -1, 1, 1).to(latents)
        latents = latents * std / vae.config.scaling_factor + mean
    else:
        latents = latents / vae.config.scaling_factor
    decoded = vae.decode(latents, return_dict=False)[0]
    finite = torch.isfinite(decoded).flatten(1).all(dim=1).tolist()
    pixels = (decoded.float() / 2 + 0.5).nan_to_num(0).clamp(0, 1).mul(255).round().to(torch.uint8)
    images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return list(images), finite
