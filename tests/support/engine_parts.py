"""What an engine is made of in tests: a model around a real pipeline, rows, a listener that remembers, a small card."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from inpaint_ops.engine import BatchKey, PaintItem, PaintResult
from inpaint_ops.tuning import Tuning


def painting_model(pipe: Any, batch_size: int = 4, **more: Any) -> Any:
    """A model as the engine wants it, without relief, compiler and kernels unless `more` says otherwise."""
    plain = {
        "tuning": Tuning(batch_size=batch_size),
        "is_compiled": False,
        "kernels": nullcontext,
        "relieve": lambda: None,
        "compile_seconds": lambda: 0.0,
        "use_loras": lambda wanted: (),
        "uncompile": lambda error: None,
    }
    return SimpleNamespace(pipe=pipe, **(plain | more))


@dataclass
class Remembering:
    """A listener that keeps all that it hears."""

    steps: list[tuple[int, int]] = field(default_factory=list)
    prompts: list[tuple[int, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def step(self, step: int, steps: int) -> None:
        self.steps.append((step, steps))

    def prompt_encoded(self, done: int, total: int) -> None:
        self.prompts.append((done, total))

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def out_of_memory(self, message: str) -> None:
        self.memory.append(message)


KEY = BatchKey(width=64, height=64, steps=4, guidance_scale=7.5, strength=0.9999)


LEVELS = 1
"""Levels of 255 by which a row may differ between a batch and by itself: 2e-6 of float noise can tip a rounding."""


def item(
    row: int,
    *,
    key: BatchKey = KEY,
    seed: int | None = None,
    prompt: str = "a red boat",
    negative_prompt: str | None = None,
) -> PaintItem:
    """A row whose picture and mask depend on its number."""
    draw = np.random.default_rng(row)
    rgb = draw.integers(0, 256, (key.height, key.width, 3), dtype=np.uint8)
    mask = np.zeros((key.height, key.width), np.uint8)
    mask[8 * (row % 4) : 40, 16:56] = 255
    return PaintItem(row, key, rgb, mask, prompt, negative_prompt, row if seed is None else seed)


def image(result: PaintResult) -> np.ndarray:
    assert result.error is None, result.error
    assert result.image is not None
    return result.image


def difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


class SmallCard:
    """A card with a byte budget, around a real pipeline: it counts what the UNet and the VAE are given.

    A UNet sample (with its guidance twin) takes `sample` bytes a latent pixel, a VAE call `pixel` bytes per pixel.
    """

    def __init__(self, pipe: Any, budget: int, sample: int = 100, pixel: int = 10) -> None:
        self.budget, self.most, self.asked = budget, 0, []
        unet, decoder, encoder = pipe.unet.forward, pipe.vae.decoder.forward, pipe.vae.encoder.forward
        pipe.unet.forward = lambda x, *a, **k: (self.need(x, sample), unet(x, *a, **k))[1]
        pipe.vae.decoder.forward = lambda x, *a, **k: (self.need(x, pixel * 64), decoder(x, *a, **k))[1]
        pipe.vae.encoder.forward = lambda x, *a, **k: (self.need(x, pixel), encoder(x, *a, **k))[1]

    def need(self, tensor: torch.Tensor, each: int) -> None:
        wanted = tensor.shape[0] * tensor.shape[2] * tensor.shape[3] * each
        self.asked.append(wanted)
        if wanted > self.budget:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {wanted} bytes of {self.budget}")
        self.most = max(self.most, wanted)


def forget_graphs() -> None:
    """Have dynamo forget all that it has compiled.

    While it walks its table of backends, one may come or go (seen once, in torch 2.13: "dictionary changed size"): then
    it walks again.
    """
    for _ in range(10):
        try:
            torch._dynamo.reset()
            return
        except RuntimeError as error:
            if "changed size during iteration" not in str(error):
                raise
    raise RuntimeError("dynamo's table of backends never stood still")
