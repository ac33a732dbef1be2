"""Guidance that ends before the last step (`guidance_cutoff`): how the pipeline is told, and what really ran.

With classifier-free guidance the UNet paints each step twice, with the prompt and with the negative one, as the two
halves of one batch. Once guidance is off, the half of the prompt alone goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inpaint_ops.engine.batching import BatchKey
from inpaint_ops.protocol import guided_steps
from inpaint_ops.records import LedgerEntry
from inpaint_ops.wording import counted

HALVED = ("prompt_embeds", "add_text_embeds", "add_time_ids", "mask", "masked_image_latents")
"""What StableDiffusionXLInpaintPipeline.__call__ (diffusers 0.42.1) holds twice while there is guidance: the negative
prompts' half first. A UNet of 9 channels takes the last two. One of 4 channels takes neither, but the pipeline itself
halves the mask for it while there is guidance, where it puts the source's latents back."""


class Steps:
    """The `callback_on_step_end` of one call of the pipeline: counts its steps, and ends its guidance by the key.

    Diffusers' own SDXLCFGCutoffCallback keeps the last row of each tensor, which is one image's, and leaves the mask
    and the masked image as they are.
    """

    def __init__(self, key: BatchKey, on_step: Callable[[int, int], None]) -> None:
        self._cutoff, self._on_step = key.guidance_cutoff, on_step
        self._last_guided = 0
        self.ran = 0
        """Steps that ran."""

    @property
    def inputs(self) -> list[str]:
        """The tensors that the pipeline has to hand over; the callback's default where guidance goes on to the end."""
        return ["latents"] if self._cutoff == 1 else ["latents", *HALVED]

    @property
    def unguided(self) -> int:
        """Of the steps that ran, those after the last one with guidance; all where there was none."""
        return self.ran - self._last_guided

    def __call__(self, pipe: Any, index: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """After a call of the UNet: the tensors with which the pipeline goes on."""
        order = pipe.scheduler.order  # a second-order scheduler visits each step twice, but for the last
        steps = -(-pipe.num_timesteps // order)
        self.ran = index // order + 1
        if pipe.do_classifier_free_guidance:
            self._last_guided = self.ran
            if self._cutoff < 1 and index + 1 == guided_steps(steps, self._cutoff) * order:
                pipe._guidance_scale = 1.0  # each call of the pipeline sets its own
                tensors |= {name: tensors[name].chunk(2)[1] for name in HALVED}
        self._on_step(self.ran, steps)
        return tensors


class Cutoffs:
    """What became of `guidance_cutoff` in the batches that asked for it."""

    def __init__(self) -> None:
        self._asked: set[float] = set()
        self._why_not: dict[str, None] = {}
        self._steps = self._unguided = 0

    def add(self, key: BatchKey, steps: Steps, *, guided: bool) -> tuple[str, ...]:
        """Count a batch. Returns why the cutoff had no effect, for its rows' records; empty where it had one.

        `guided`: the batch began with guidance.
        """
        if key.guidance_cutoff == 1:
            return ()
        self._asked.add(key.guidance_cutoff)
        self._steps += steps.ran
        if guided and steps.unguided:
            self._unguided += steps.unguided
            return ()
        if guided:
            why = f"with {counted(steps.ran, 'step')} it leaves none without guidance"
        elif key.guidance_scale > 1:
            why = "the model takes the guidance scale as an input, and paints each step once"
        else:
            why = f"guidance is off (guidance_scale {key.guidance_scale:g})"
        self._why_not[why] = None
        return (f"guidance_cutoff {key.guidance_cutoff:g} had no effect: {why}",)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """The ledger's entry; none where no batch asked."""
        if not self._asked:
            return ()
        asked = _few(sorted(self._asked))
        effective = "off" if not self._unguided else f"{asked} for some rows" if self._why_not else asked
        how = "the UNet paints each of the last steps once, with the prompt, instead of twice"
        return (
            LedgerEntry(
                name="guidance_cutoff",
                requested=asked,
                effective=effective,
                matches=not self._why_not,
                reason=_first(list(self._why_not)) or how,
                measured={"batch_steps": float(self._steps), "batch_steps_without_guidance": float(self._unguided)},
            ),
        )


def _first(sentences: list[str], most: int = 3) -> str:
    more = len(sentences) - most
    return "; ".join([*sentences[:most], *([f"and for {more} more reasons"] if more > 0 else [])])


def _few(values: list[float]) -> str:
    shown = [f"{value:g}" for value in values]
    return ", ".join(shown) if len(shown) <= 4 else f"{len(shown)} shares from {shown[0]} to {shown[-1]}"
