"""Checks of what was painted, and the wider dtype in which a row with a bad patch is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from inpaint_ops.engine.batching import PaintItem
from inpaint_ops.engine.failures import in_short
from inpaint_ops.errors import DeviceOutOfMemoryError, FlatImageError, InpaintOpsError, NonFiniteImageError
from inpaint_ops.model.torch_errors import is_out_of_memory
from inpaint_ops.protocol import unit_name

_FLAT = 1
"""Levels between the darkest and the brightest pixel of a flat patch, in each channel, at most."""
_RING = 16
"""Pixels around the mask that a flat patch is compared with."""
_LIKE_THE_RING, _RING_SHARE = 24, 0.25
"""A flat patch continues its surroundings when this share of them is within so many levels of it: the white ground of a
product photo is painted as exactly white, and rightly."""


def find_fault(image: NDArray[np.uint8], is_finite: bool, item: PaintItem, dtypes: str) -> InpaintOpsError | None:
    """What is wrong with a painted canvas, if anything.

    Args:
        image: (height, width, 3) uint8, the decoded canvas.
        is_finite: whether the decoded values were all finite.
        item: the row, at the same size.
        dtypes: of the model, for the message.
    """
    if not is_finite:
        return NonFiniteImageError(
            f"the model painted NaN or infinity for row {unit_name(item.row)} ({dtypes}): {_cure(dtypes)}"
        )
    masked = item.mask > 0
    patch = image[masked]
    if not len(patch) or np.ptp(patch, axis=0).max() > _FLAT:
        return None
    colour = np.median(patch, axis=0)
    near = cv2.dilate(item.mask, np.ones((2 * _RING + 1, 2 * _RING + 1), np.uint8)) > 0
    ring = item.rgb[near & ~masked].astype(np.int16)
    if len(ring) and np.mean((np.abs(ring - colour) <= _LIKE_THE_RING).all(axis=1)) >= _RING_SHARE:
        return None
    name = "black" if colour.max() <= _FLAT + 1 else "one flat colour, #" + "".join(f"{int(v):02x}" for v in colour)
    return FlatImageError(
        f"the model painted {name} for row {unit_name(item.row)}, unlike what is around the mask ({dtypes}): "
        f"{_cure(dtypes)}"
    )


def _cure(dtypes: str) -> str:
    if dtypes.count("float32") == 2:
        return "try another seed or prompt, and check the weights (inpaint-ops models verify)"
    return "use dtype bfloat16 or float32"


def dtypes_of(pipe: Any) -> str:
    """The dtypes that a pipeline paints with, in words."""
    return f"UNet {pipe.unet.dtype}, VAE {pipe.vae.dtype}".replace("torch.", "")


def can_widen(pipe: Any) -> bool:
    """Whether a pipeline can be cast to float32 for a while: not one that is float32 already, nor one whose weights are
    moved by an offload's hooks.
    """
    hooked = any(hasattr(pipe.unet, name) for name in ("_hf_hook", "_diffusers_hook"))
    return not hooked and pipe.unet.dtype != torch.float32


@contextmanager
def in_float32(pipe: Any) -> Iterator[None]:
    """Within the block all models are float32 and run without compiled graphs; afterwards they are as they were, bit
    for bit.
    """
    # The text encoders too: the pipeline casts embeddings that it is given to their dtype.
    modules = (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    with ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for module in filter(None, modules):
            stack.callback(cast, module, module.dtype)  # each is cast back, whatever happens to the others
            module.to(torch.float32)
        yield


def cast(module: Any, dtype: torch.dtype) -> None:
    """Cast a module back in place; by way of the host where the device has no memory for a second copy.

    Raises DeviceOutOfMemoryError where the host has none either: parts of the module may then be in either dtype.
    """
    try:
        module.to(dtype)
        return
    except Exception as error:
        if module.device.type == "cpu" or not is_out_of_memory(error):
            raise
    place = module.device
    try:  # not within the handler: the exception's frames hold on to what has been cast
        module.to("cpu").to(dtype).to(place)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceOutOfMemoryError(
            f"no memory to cast the weights back to {dtype}, neither on the device nor on the host "
            f"({in_short(error)}): use the tuning low-memory, or a machine with more memory"
        ) from error
