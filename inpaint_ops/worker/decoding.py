"""A row's files to what the engine can paint: the stage `decode` of a row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint_ops import images
from inpaint_ops.protocol import Item, text_of
from inpaint_ops.records import MASKED_LATENTS, LedgerEntry, Timings
from inpaint_ops.worker.finishing import jpeg_options, loras_in_use
from inpaint_ops.worker.parts import Part, placements_of, regions_of, seed_of
from inpaint_ops.worker.profiling import Profile
from inpaint_ops.worker.setup import WorkerSetup
from inpaint_ops.worker.tiles import TiledRow, tiles_of

if TYPE_CHECKING:
    import numpy as np

    from inpaint_ops.engine import BatchKey

STARTS_AT_NOISE = "at a strength of 1 this model begins with noise alone, and the masked area is never encoded"
"""StableDiffusionXLInpaintPipeline.prepare_latents, diffusers 0.42.1. For a UNet of 4 channels the whole image is
encoded, and its latents beside the mask hold some of what lies under it."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedRow:
    """A row that can be painted, with what it takes to finish it afterwards."""

    item: Item
    source: images.Source
    mask: images.Mask
    regions: images.Regions | None
    parts: tuple[Part, ...]
    """Its canvases; of a row in tiles the first one."""
    tiles: TiledRow | None
    jpeg: images.JpegOptions
    """How its image is written, if that is a JPEG."""
    notes: tuple[str, ...]
    """What its texts lost, and how its canvases were filled otherwise than asked."""
    timings: Timings
    started_at: datetime

    @property
    def key(self) -> BatchKey:
        """Of its first canvas."""
        return self.parts[0].paint.key

    @property
    def is_alone(self) -> bool:
        """Whether it has several canvases, and is painted by itself."""
        return self.tiles is not None or len(self.parts) > 1


class RowDecoder:
    """Decodes rows, in several threads at a time."""

    def __init__(
        self,
        setup: WorkerSetup,
        ledger: tuple[LedgerEntry, ...],
        profile: Profile,
        warn_once: Callable[[str], None],
    ) -> None:
        self._job, self._loaded, self._engine = setup.job, setup.loaded, setup.engine
        self._profile, self._warn_once = profile, warn_once
        self._starts_at_noise = not any(one.effective == MASKED_LATENTS for one in ledger)

    def decode(self, item: Item, started_at: datetime, began: float) -> DecodedRow:
        """The row on its working size. `began` is when that was by `time.perf_counter`, in seconds.

        Raises what is wrong with the row's files or texts.
        """
        from inpaint_ops.engine import BatchKey, PaintItem

        reading = images.PairReading(
            max_pixels=self._job.max_pixels,
            format=item.format,
            metadata=self._job.metadata,
            frames=self._job.frames,
            channel=item.mask_channel,
            threshold=item.mask_threshold,
            invert=item.mask_invert,
            dilate=item.mask_dilate,
            blur=item.mask_blur,
            blend=item.blend,
            resize=self._job.mask_resize == "nearest",
        )
        data = Path(item.image).read_bytes()
        source, mask = reading.read(data, Path(item.mask).read_bytes())
        native = self._loaded.native_size
        regions = regions_of(item, source, mask.weights, native)
        guided = item.guidance_scale > 1
        prompt = text_of(item.prompt, item.prompt_2) or ""
        negative = text_of(item.negative_prompt, item.negative_prompt_2)
        chunks, notes = self._engine.prompts.shape(prompt, negative, guided=guided)
        fill = item.fill
        if fill != "original" and item.strength == 1 and self._starts_at_noise:
            fill, notes = "original", (*notes, f"fill {fill} had no effect: {STARTS_AT_NOISE}")
            self._warn_once(f"fill {item.fill} had no effect on some rows: {STARTS_AT_NOISE}")

        def prepare(
            number: int, placement: images.Placement, rgb: np.ndarray, working: np.ndarray
        ) -> tuple[Part, tuple[str, ...]]:
            seed = seed_of(item, number)
            with self._profile.span("fill", row=item.row):
                rgb, unlike = images.fill_masked(rgb, working, placement, fill, seed, self._loaded.lama)
            key = BatchKey(
                *placement.working,
                item.steps,
                item.guidance_scale,
                item.strength,
                chunks,
                loras_in_use(item),
                item.guidance_cutoff,
            )
            return Part(placement, PaintItem(item.row, key, rgb, working, prompt, negative, seed)), unlike

        tiles = tiles_of(item, source, mask.weights, native, prepare)
        placements = placements_of(item, source, mask.weights, native, regions) if tiles is None else tiles.first
        parts = []
        for number, placement in enumerate(placements):
            part, unlike = prepare(number, placement, *images.to_working(source, mask.weights, placement))
            parts.append(part)
            notes += tuple(one for one in unlike if one not in notes and tiles is None)
        jpeg = jpeg_options(self._job)
        if item.as_source:
            jpeg, unlike = images.options_like(data, source, item.format, jpeg)
            notes += unlike
        timings = Timings(decode=time.perf_counter() - began)
        return DecodedRow(item, source, mask, regions, tuple(parts), tiles, jpeg, notes, timings, started_at)
